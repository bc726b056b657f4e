//! What a process does, and as whom it does it in a cluster.

use std::net::IpAddr;

use clap::{Args, ValueEnum};

/// What a process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Both, in one process
    #[default]
    All,
    /// Answers clients; scales nothing but from zero to one, if no autoscaler does
    Gateway,
    /// Scales models in a cluster; serves no client
    Autoscaler,
}

impl Role {
    pub(crate) fn serves(self) -> bool {
        self != Self::Autoscaler
    }

    pub(crate) fn decides(self) -> bool {
        self != Self::Gateway
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Gateway => "gateway",
            Self::Autoscaler => "autoscaler",
        }
    }
}

/// Who this process is in a cluster. A pod learns it from the downward API.
#[derive(Clone, Debug, Args)]
pub(crate) struct Identity {
    /// Name of this pod
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub(crate) pod_name: Option<String>,
    /// Namespace of this pod; where the Lease and the state are kept
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub(crate) pod_namespace: Option<String>,
    /// Address at which gateways reach this process
    #[arg(long, env = "POD_IP", value_name = "IP")]
    pub(crate) pod_ip: Option<IpAddr>,
}
