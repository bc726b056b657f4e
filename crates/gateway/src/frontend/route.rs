//! What a path asks for. Matched by hand, decoded once; a model name is checked before anything is looked up.

use std::borrow::Cow;

use convert::openai::Endpoint;
use http::Method;

use crate::{
    metrics::Surface,
    status::{Failure, Situation, quote},
    trace::Purpose,
};

const NAME_LENGTH_MAX: usize = 128;

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    ServerMetadata,
    Live,
    Ready,
    Model(Target<'a>, Action),
    /// Of every model. Takes the place of the metadata of a model called `stats`.
    AllStats,
    RepositoryIndex,
    Load(Cow<'a, str>),
    Unload(Cow<'a, str>),
    V1List,
    V1Status(Target<'a>),
    V1Predict(Target<'a>),
    OpenAi(Endpoint),
}

/// A model, and the version of it if one is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) version: Option<Cow<'a, str>>,
}

/// What is asked of a model on the Open Inference surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Metadata,
    Ready,
    Config,
    Stats,
    Infer,
    Generate,
}

impl<'a> Route<'a> {
    /// Reads a path.
    ///
    /// # Errors
    /// `route_not_found`, or `bad_request` for a name that no model can have.
    pub(crate) fn of(path: &'a str) -> Result<Self, Failure> {
        let not_found =
            || Failure::new(Situation::RouteNotFound, format!("there is nothing at {}", quote(path)));
        if let Some(rest) = path.strip_prefix("/v2") {
            return v2(rest)?.ok_or_else(not_found);
        }
        let rest = path.strip_prefix("/v1/").ok_or_else(not_found)?;
        v1(rest)?.ok_or_else(not_found)
    }

    /// Which protocol paths like this one belong to; known even where the route is not.
    pub(crate) fn surface(path: &str) -> Surface {
        match path.strip_prefix("/v1/") {
            None => Surface::V2Http,
            Some(rest) if rest.starts_with("models/") => Surface::V1,
            Some(_) => Surface::OpenAi,
        }
    }

    /// What a call of this route is for; `None` where it only asks.
    pub(crate) fn purpose(&self) -> Option<Purpose> {
        let route = match self {
            Self::ServerMetadata
            | Self::Live
            | Self::Ready
            | Self::AllStats
            | Self::RepositoryIndex
            | Self::V1List
            | Self::V1Status(_)
            | Self::Model(_, Action::Metadata | Action::Ready | Action::Config | Action::Stats) => {
                return None;
            }
            Self::OpenAi(endpoint) => return Some(operation(*endpoint)),
            Self::Model(Target { version: None, .. }, Action::Infer) => "/v2/models/{model}/infer",
            Self::Model(_, Action::Infer) => "/v2/models/{model}/versions/{version}/infer",
            Self::Model(_, Action::Generate) => "/v2/models/{model}/generate",
            Self::V1Predict(Target { version: None, .. }) => "/v1/models/{model}:predict",
            Self::V1Predict(_) => "/v1/models/{model}/versions/{version}:predict",
            Self::Load(_) => "/v2/repository/models/{model}/load",
            Self::Unload(_) => "/v2/repository/models/{model}/unload",
        };
        Some(Purpose::Route(route))
    }

    /// Whether `method` may be used on this route.
    ///
    /// # Errors
    /// `method_not_allowed` with the right ones.
    pub(crate) fn check(&self, method: &Method) -> Result<(), Failure> {
        let reads = matches!(
            self,
            Self::ServerMetadata
                | Self::Live
                | Self::Ready
                | Self::AllStats
                | Self::V1List
                | Self::V1Status(_)
                | Self::Model(_, Action::Metadata | Action::Ready | Action::Config | Action::Stats)
        );
        match (reads, method) {
            (true, &Method::GET | &Method::HEAD) | (false, &Method::POST) => Ok(()),
            (true, _) => Err(Failure::method_not_allowed("GET, HEAD")),
            (false, _) => Err(Failure::method_not_allowed("POST")),
        }
    }
}

/// An endpoint as the conventions for generative AI name it, as far as they do.
fn operation(endpoint: Endpoint) -> Purpose {
    let (route, name) = match endpoint {
        Endpoint::ChatCompletions => ("/v1/chat/completions", "chat"),
        Endpoint::Completions => ("/v1/completions", "text_completion"),
        Endpoint::Embeddings => ("/v1/embeddings", "embeddings"),
        Endpoint::Responses => ("/v1/responses", "chat"),
        Endpoint::Rerank => ("/v1/rerank", "rerank"),
    };
    Purpose::Operation { route, name }
}

fn v2(rest: &str) -> Result<Option<Route<'_>>, Failure> {
    Ok(match rest {
        "" | "/" => Some(Route::ServerMetadata),
        "/health/live" => Some(Route::Live),
        "/health/ready" => Some(Route::Ready),
        "/models/stats" => Some(Route::AllStats),
        "/repository/index" => Some(Route::RepositoryIndex),
        _ => match rest.strip_prefix("/models/") {
            Some(model) => v2_model(model)?,
            None => repository(rest)?,
        },
    })
}

fn v2_model(rest: &str) -> Result<Option<Route<'_>>, Failure> {
    let mut segments = rest.split('/');
    let name = segments.next().unwrap_or_default();
    let mut verb = segments.next();
    let mut version = None;
    if verb == Some("versions") {
        version = segments.next();
        if version.is_none() {
            return Ok(None);
        }
        verb = segments.next();
    }
    let action = match verb {
        None => Action::Metadata,
        Some("ready") => Action::Ready,
        Some("config") => Action::Config,
        Some("stats") => Action::Stats,
        Some("infer") => Action::Infer,
        Some("generate" | "generate_stream") => Action::Generate,
        Some(_) => return Ok(None),
    };
    if segments.next().is_some() {
        return Ok(None);
    }
    Ok(Some(Route::Model(target(name, version)?, action)))
}

fn repository(rest: &str) -> Result<Option<Route<'_>>, Failure> {
    let Some(rest) = rest.strip_prefix("/repository/models/") else { return Ok(None) };
    Ok(match rest.split_once('/') {
        Some((model, "load")) => Some(Route::Load(name(model)?)),
        Some((model, "unload")) => Some(Route::Unload(name(model)?)),
        _ => None,
    })
}

fn v1(rest: &str) -> Result<Option<Route<'_>>, Failure> {
    let Some(rest) = rest.strip_prefix("models") else { return Ok(openai(rest)) };
    let Some(rest) = rest.strip_prefix('/') else {
        return Ok(rest.is_empty().then_some(Route::V1List));
    };
    let (model, verb) = match rest.rsplit_once(':') {
        Some((model, verb)) => (model, Some(verb)),
        None => (rest, None),
    };
    let target = match model.split_once("/versions/") {
        Some((model, version)) => target(model, Some(version))?,
        None => target(model, None)?,
    };
    Ok(match verb {
        None => Some(Route::V1Status(target)),
        Some("predict") => Some(Route::V1Predict(target)),
        Some(_) => None,
    })
}

fn openai(rest: &str) -> Option<Route<'_>> {
    let endpoint = match rest {
        "chat/completions" => Endpoint::ChatCompletions,
        "completions" => Endpoint::Completions,
        "embeddings" => Endpoint::Embeddings,
        "responses" => Endpoint::Responses,
        "rerank" => Endpoint::Rerank,
        _ => return None,
    };
    Some(Route::OpenAi(endpoint))
}

fn target<'a>(model: &'a str, version: Option<&'a str>) -> Result<Target<'a>, Failure> {
    Ok(Target { name: name(model)?, version: version.map(name).transpose()? })
}

/// Decodes a segment once and checks that it is a name.
fn name(segment: &str) -> Result<Cow<'_, str>, Failure> {
    let decoded = decode(segment);
    if is_name(&decoded) {
        return Ok(decoded);
    }
    let sentence = format!(
        "{} is not a model name: letters, digits, '.', '_' and '-', at most {NAME_LENGTH_MAX}, first a letter or digit",
        quote(&decoded)
    );
    Err(Failure::new(Situation::BadRequest, sentence))
}

/// Whether `text` may name a model or a version.
pub(crate) fn is_name(text: &str) -> bool {
    let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= NAME_LENGTH_MAX
        && text.bytes().all(part)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// Percent-decodes; what is not an escape stays as it is and then fails as a name.
fn decode(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let ahead = bytes.clone();
        let escape = (byte == b'%').then(|| Some((hex(bytes.next()?)?, hex(bytes.next()?)?))).flatten();
        if let Some((high, low)) = escape {
            decoded.push(high << 4 | low);
        } else {
            bytes = ahead;
            decoded.push(byte);
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model<'a>(name: &'a str, version: Option<&'a str>) -> Target<'a> {
        Target { name: name.into(), version: version.map(Into::into) }
    }

    #[test]
    fn every_endpoint_is_found() {
        for (path, route) in [
            ("/v2", Route::ServerMetadata),
            ("/v2/health/live", Route::Live),
            ("/v2/health/ready", Route::Ready),
            ("/v2/models/m", Route::Model(model("m", None), Action::Metadata)),
            ("/v2/models/m/infer", Route::Model(model("m", None), Action::Infer)),
            ("/v2/models/m/versions/2/infer", Route::Model(model("m", Some("2")), Action::Infer)),
            ("/v2/models/m/versions/2", Route::Model(model("m", Some("2")), Action::Metadata)),
            ("/v2/models/m/generate_stream", Route::Model(model("m", None), Action::Generate)),
            ("/v2/models/%6d/ready", Route::Model(model("m", None), Action::Ready)),
            ("/v2/models/stats", Route::AllStats),
            ("/v2/models/stats/stats", Route::Model(model("stats", None), Action::Stats)),
            ("/v2/repository/index", Route::RepositoryIndex),
            ("/v2/repository/models/m/load", Route::Load("m".into())),
            ("/v1/models", Route::V1List),
            ("/v1/models/m", Route::V1Status(model("m", None))),
            ("/v1/models/m:predict", Route::V1Predict(model("m", None))),
            ("/v1/models/m/versions/3:predict", Route::V1Predict(model("m", Some("3")))),
            ("/v1/chat/completions", Route::OpenAi(Endpoint::ChatCompletions)),
            ("/v1/rerank", Route::OpenAi(Endpoint::Rerank)),
        ] {
            assert_eq!(Route::of(path).map_err(|f| f.situation), Ok(route), "{path}");
        }
    }

    #[test]
    fn odd_paths_are_refused_without_a_look_at_any_model() {
        for (path, situation) in [
            ("/", Situation::RouteNotFound),
            ("/v2x", Situation::RouteNotFound),
            ("/v2/models/m/infer/", Situation::RouteNotFound),
            ("/v2/models/m/versions", Situation::RouteNotFound),
            ("//v2/models/m", Situation::RouteNotFound),
            ("/v2/../v2", Situation::RouteNotFound),
            ("/livez", Situation::RouteNotFound),
            ("/metrics", Situation::RouteNotFound),
            ("/v1/models/m:classify", Situation::RouteNotFound),
            ("/v2/models/", Situation::BadRequest),
            ("/v2/models/..", Situation::BadRequest),
            ("/v2/models/%2e%2e/infer", Situation::BadRequest),
            ("/v2/models/a%2Fb/infer", Situation::BadRequest),
            ("/v2/models/a%00/infer", Situation::BadRequest),
            ("/v2/models/a%252e/infer", Situation::BadRequest),
            ("/v2/models/a;b/infer", Situation::BadRequest),
            ("/v2/models/%", Situation::BadRequest),
            ("/v2/models/\u{ff0e}/infer", Situation::BadRequest),
        ] {
            assert_eq!(Route::of(path).map_err(|f| f.situation), Err(situation), "{path}");
        }
        let long = format!("/v2/models/{}/infer", "x".repeat(129));
        assert!(Route::of(&long).is_err());
    }

    #[test]
    fn a_wrong_verb_is_told_the_right_ones() {
        let infer = Route::of("/v2/models/m/infer").unwrap();
        assert!(infer.check(&Method::POST).is_ok());
        assert!(infer.check(&Method::GET).is_err());
        let ready = Route::of("/v2/health/ready").unwrap();
        assert!(ready.check(&Method::HEAD).is_ok());
        assert!(ready.check(&Method::TRACE).is_err());
    }
}
