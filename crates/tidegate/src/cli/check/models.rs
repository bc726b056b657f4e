//! Each model's objects: its target, with a scale subresource, and its Service.

use std::collections::BTreeSet;

use fleet::kubernetes::{
    ApiError, Cluster,
    access::{self, Declared, MODELS_MAX},
    target::TargetRef,
};

use super::{finding::Line, unread};
use crate::config::{Config, Fleet};

/// A model that runs in the cluster, and what it names there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    /// `Model ns/name`, or `model name` of the file.
    title: String,
    namespace: String,
    target: String,
    service: String,
}

impl Named {
    /// `None` where the resource says no target: the API server accepts none such.
    fn of(declared: &Declared) -> Option<Self> {
        let Declared { namespace, name, spec } = declared;
        let text = |key: &str| Some(spec.pointer(&format!("/fleet/kubernetes/{key}"))?.as_str()?.to_owned());
        let target = text("target")?;
        let service =
            text("service").unwrap_or_else(|| target.rsplit('/').next().unwrap_or_default().to_owned());
        Some(Self {
            title: format!("Model {namespace}/{name}"),
            namespace: namespace.clone(),
            target,
            service,
        })
    }
}

pub(super) async fn lines(cluster: &Cluster, namespace: &str, config: Option<&Config>) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut models: BTreeSet<Named> = of_file(namespace, config).collect();
    match declared(cluster, namespace).await {
        Ok(found) => {
            for model in &found.models {
                match Named::of(model) {
                    Some(named) => drop(models.insert(named)),
                    None => lines.push(targetless(model)),
                }
            }
            if found.more {
                lines.push(Line::doubtful(
                    format!("there are more than {MODELS_MAX} Models; only those were looked at"),
                    "ask by --namespace as a user who sees no other",
                ));
            }
        }
        // The missing definition is told of elsewhere, and nothing is known of models without it.
        Err(ApiError::NotFound(_)) if models.is_empty() => return lines,
        Err(ApiError::NotFound(_)) => {}
        Err(error) => lines.push(unread("the list of Models", &error)),
    }
    for model in &models {
        lines.extend(one(cluster, model).await);
    }
    if lines.is_empty() {
        lines.push(Line::fine("there are no models in the cluster yet"));
    }
    lines
}

/// Of all namespaces, or where that is not allowed of the installation's own.
async fn declared(cluster: &Cluster, namespace: &str) -> Result<access::Declarations, ApiError> {
    match access::models(cluster, None).await {
        Err(ApiError::Forbidden { .. }) => access::models(cluster, Some(namespace)).await,
        found => found,
    }
}

fn of_file<'a>(namespace: &'a str, config: Option<&'a Config>) -> impl Iterator<Item = Named> + 'a {
    let models = config.into_iter().flat_map(|config| &config.models);
    models.filter_map(move |model| match &model.fleet {
        Fleet::Kubernetes(fleet) => Some(Named {
            title: format!("model {}", model.name),
            namespace: fleet.namespace.as_deref().unwrap_or(namespace).to_owned(),
            target: fleet.target.clone(),
            service: fleet.service.clone(),
        }),
        Fleet::Process(_) | Fleet::Static { .. } => None,
    })
}

fn targetless(model: &Declared) -> Line {
    let Declared { namespace, name, .. } = model;
    Line::failed(
        format!("Model {namespace}/{name} names no target"),
        format!("write spec.fleet.kubernetes.target: kubectl -n {namespace} edit model {name}"),
    )
}

/// A line for each fault, or one that there is none.
async fn one(cluster: &Cluster, model: &Named) -> Vec<Line> {
    let Named { title, namespace, target, service } = model;
    let mut lines = Vec::new();
    let replicas = match target.parse::<TargetRef>() {
        Ok(parsed) => access::replicas(cluster, namespace, &parsed).await,
        Err(error) => {
            let fix = "write it as KIND/NAME or KIND.GROUP/NAME, like Deployment/digits";
            return vec![Line::failed(format!("{title}: {error}"), fix)];
        }
    };
    if let Err(error) = &replicas {
        lines.push(faulty(title, &format!("its target {target}"), namespace, error));
    }
    if let Err(error) = access::service(cluster, namespace, service).await {
        lines.push(faulty(title, &format!("its Service {service}"), namespace, &error));
    }
    match replicas {
        Ok(replicas) if lines.is_empty() => vec![Line::fine(format!(
            "{title}: {target} (at {replicas}) and Service {service} are in namespace {namespace}"
        ))],
        _ => lines,
    }
}

fn faulty(title: &str, object: &str, namespace: &str, error: &ApiError) -> Line {
    match error {
        ApiError::NotFound(_) => Line::failed(
            format!("{title}: {object} is not in namespace {namespace}"),
            format!("{error}; create it, or correct the model"),
        ),
        error => unread(&format!("{title}: {object} in namespace {namespace}"), error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_service_is_called_as_the_target_unless_it_is_named() {
        let declared = |spec| Declared { namespace: "ml".to_owned(), name: "digits".to_owned(), spec };
        let kubernetes = |kubernetes| declared(json!({"fleet": {"kubernetes": kubernetes}}));
        let plain = Named::of(&kubernetes(json!({"target": "Deployment/d"}))).unwrap();
        assert_eq!((&*plain.title, &*plain.service), ("Model ml/digits", "d"));
        let named = Named::of(&kubernetes(json!({"target": "Deployment/d", "service": "s"}))).unwrap();
        assert_eq!(named.service, "s");
        assert_eq!(Named::of(&declared(serde_json::Value::Null)), None);
    }
}
