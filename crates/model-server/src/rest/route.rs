//! Paths and verbs of the REST protocol.

use http::Method;

use crate::error::{Error, Quoted};

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Server,
    Live,
    Ready,
    Index,
    View(ModelRoute<'a>, View),
    Infer(ModelRoute<'a>),
}

/// Which model; an empty version is the default one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ModelRoute<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
}

/// What to show of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Metadata,
    Ready,
    Config,
    Stats,
}

impl<'a> Route<'a> {
    /// Names of models need no escapes, so a path with one is simply unknown.
    pub(super) fn of(method: &Method, path: &'a str) -> Result<Self, Error> {
        let route = Self::of_path(path).ok_or_else(|| Error::RouteNotFound(Quoted::new(path)))?;
        let posted = matches!(route, Self::Infer(_) | Self::Index);
        match *method {
            Method::POST if posted => Ok(route),
            Method::GET | Method::HEAD if !posted => Ok(route),
            _ => Err(Error::MethodNotAllowed { allow: if posted { "POST" } else { "GET, HEAD" } }),
        }
    }

    fn of_path(path: &'a str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        match *segments.as_slice() {
            ["v2"] | ["v2", ""] => Some(Self::Server),
            ["v2", "health", "live"] => Some(Self::Live),
            ["v2", "health", "ready"] => Some(Self::Ready),
            ["v2", "repository", "index"] => Some(Self::Index),
            ["v2", "models", name, "versions", version, ref rest @ ..] if !version.is_empty() => {
                Self::of_model(ModelRoute { name, version }, rest)
            }
            ["v2", "models", name, ref rest @ ..] => Self::of_model(ModelRoute { name, version: "" }, rest),
            _ => None,
        }
    }

    fn of_model(model: ModelRoute<'a>, rest: &[&str]) -> Option<Self> {
        match *rest {
            [] => Some(Self::View(model, View::Metadata)),
            ["ready"] => Some(Self::View(model, View::Ready)),
            ["config"] => Some(Self::View(model, View::Config)),
            ["stats"] => Some(Self::View(model, View::Stats)),
            ["infer"] => Some(Self::Infer(model)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_protocol_has_its_route() {
        let m = ModelRoute { name: "m", version: "" };
        let v = ModelRoute { name: "m", version: "1" };
        for (method, path, route) in [
            (Method::GET, "/v2", Route::Server),
            (Method::HEAD, "/v2/", Route::Server),
            (Method::GET, "/v2/health/live", Route::Live),
            (Method::GET, "/v2/health/ready", Route::Ready),
            (Method::POST, "/v2/repository/index", Route::Index),
            (Method::GET, "/v2/models/m", Route::View(m, View::Metadata)),
            (Method::GET, "/v2/models/m/ready", Route::View(m, View::Ready)),
            (Method::GET, "/v2/models/m/config", Route::View(m, View::Config)),
            (Method::GET, "/v2/models/m/versions/1/stats", Route::View(v, View::Stats)),
            (Method::POST, "/v2/models/m/infer", Route::Infer(m)),
            (Method::POST, "/v2/models/m/versions/1/infer", Route::Infer(v)),
        ] {
            assert_eq!(Route::of(&method, path).unwrap(), route, "{path}");
        }
    }

    #[test]
    fn other_paths_are_unknown_and_other_verbs_are_told_the_right_one() {
        for path in
            ["/", "", "/v1/models/m", "/v2/models/m/infer/", "/v2/models/m/versions//infer", "/v2/models"]
        {
            assert!(matches!(Route::of(&Method::GET, path), Err(Error::RouteNotFound(_))), "{path}");
        }
        for (method, path, allowed) in [
            (Method::GET, "/v2/models/m/infer", "POST"),
            (Method::POST, "/v2/models/m", "GET, HEAD"),
            (Method::DELETE, "/v2", "GET, HEAD"),
        ] {
            let refused = Route::of(&method, path);
            assert!(matches!(refused, Err(Error::MethodNotAllowed { allow }) if allow == allowed), "{path}");
        }
    }
}
