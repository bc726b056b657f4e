//! Who may do what: bearer tokens name accounts, and an account with rules is held to them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};

use crate::{
    refusal::{Refusal, drop_empty},
    route::Verb,
};

/// The account of callers without a token, as long as tokens are not required.
pub const ADMIN: &str = "admin";

/// One permission, as in a role: every list must name what the call asks for, or "*".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    /// API groups; "" is the core group.
    pub groups: Vec<String>,
    /// `deployments` or `deployments/scale`.
    pub resources: Vec<String>,
    /// Empty for every name.
    pub names: Vec<String>,
    /// None for every namespace and for what has none.
    pub namespace: Option<String>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Rule {
    /// The rules of a `Role` (for the namespace it is bound in) or of a `ClusterRole` (bound everywhere: None).
    #[must_use]
    pub fn of_role(role: &Value, namespace: Option<&str>) -> Vec<Self> {
        let texts = |list: &Value| -> Vec<String> {
            list.as_array()
                .into_iter()
                .flatten()
                .filter_map(|text| text.as_str().map(str::to_owned))
                .collect()
        };
        let rules = role["rules"].as_array().into_iter().flatten();
        rules
            .filter(|rule| rule["resources"].is_array())
            .map(|rule| Self {
                verbs: texts(&rule["verbs"]),
                groups: texts(&rule["apiGroups"]),
                resources: texts(&rule["resources"]),
                names: texts(&rule["resourceNames"]),
                namespace: namespace.map(str::to_owned),
            })
            .collect()
    }

    fn allows(&self, access: &Access) -> bool {
        let names = |list: &[String], wanted: &str| list.iter().any(|entry| entry == "*" || entry == wanted);
        let resource = if access.subresource.is_empty() {
            access.resource.clone()
        } else {
            format!("{}/{}", access.resource, access.subresource)
        };
        let any_of_subresource = format!("*/{}", access.subresource);
        names(&self.verbs, &access.verb)
            && names(&self.groups, &access.group)
            && (names(&self.resources, &resource) || self.resources.contains(&any_of_subresource))
            && (self.names.is_empty() || self.names.contains(&access.name))
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == access.namespace)
    }
}

#[derive(Debug, Default)]
struct Book {
    tokens: BTreeMap<String, String>,
    rules: BTreeMap<String, Vec<Rule>>,
    tokens_required: bool,
}

/// The accounts of a cluster.
#[derive(Debug, Default)]
pub struct Accounts {
    book: Mutex<Book>,
}

impl Accounts {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `token` is `account`'s.
    pub fn token(&self, token: &str, account: &str) {
        self.book().tokens.insert(token.to_owned(), account.to_owned());
    }

    /// A token that is no longer accepted.
    pub fn revoke(&self, token: &str) {
        self.book().tokens.remove(token);
    }

    /// From now on calls over HTTP without a token are refused by 401.
    pub fn require_tokens(&self) {
        self.book().tokens_required = true;
    }

    /// From now on `account` may do this and no more. Accounts without rules may do everything.
    pub fn restrict(&self, account: &str, rules: Vec<Rule>) {
        self.book().rules.insert(account.to_owned(), rules);
    }

    /// The account of a call by its `Authorization`, or else `otherwise`.
    pub(crate) fn identify(
        &self,
        authorization: Option<&str>,
        otherwise: Option<&str>,
    ) -> Result<String, Refusal> {
        let book = self.book();
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        match (token, otherwise) {
            (Some(token), _) if !book.tokens.is_empty() => {
                book.tokens.get(token.trim()).cloned().ok_or_else(Refusal::unauthorized)
            }
            (_, Some(account)) => Ok(account.to_owned()),
            _ if book.tokens_required => Err(Refusal::unauthorized()),
            _ => Ok(ADMIN.to_owned()),
        }
    }

    pub(crate) fn allows(&self, account: &str, access: &Access) -> bool {
        // Everybody may ask what they may do.
        if access.resource == "selfsubjectaccessreviews" && access.verb == "create" {
            return true;
        }
        let book = self.book();
        book.rules.get(account).is_none_or(|rules| rules.iter().any(|rule| rule.allows(access)))
    }

    /// 403 in the words of the server, if `account` may not.
    pub(crate) fn check(&self, account: &str, access: &Access) -> Result<(), Refusal> {
        if self.allows(account, access) {
            return Ok(());
        }
        let Access { verb, group, resource, subresource, namespace, name } = access;
        let of = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
        let named = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        let below =
            if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
        let scope = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{namespace}\"")
        };
        let message = format!(
            "{of}{named} is forbidden: User \"{account}\" cannot {verb} resource \"{below}\" in API group \
             \"{group}\" {scope}"
        );
        let mut details = json!({ "name": name, "group": group, "kind": resource });
        drop_empty(&mut details);
        Err(Refusal::forbidden(message).detailed(details))
    }

    /// Fills in the status of a `SelfSubjectAccessReview`.
    pub(crate) fn review(&self, account: &str, review: &Value) -> Value {
        let asked = &review["spec"]["resourceAttributes"];
        let text = |member: &str| asked[member].as_str().unwrap_or_default().to_owned();
        let access = Access {
            verb: text("verb"),
            group: text("group"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
        };
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
            "spec": review["spec"], "status": { "allowed": self.allows(account, &access) },
        })
    }
}

impl Access {
    pub(crate) fn new(verb: Verb, target: &crate::route::Target, name: &str) -> Self {
        Self {
            verb: verb.word().to_owned(),
            group: target.group.clone(),
            resource: target.plural.clone(),
            subresource: target.subresource.clone(),
            namespace: target.namespace.clone().unwrap_or_default(),
            name: name.to_owned(),
        }
    }
}
