//! Free loopback ports for servers that want to be told where to listen.
//!
//! A port is found by binding it and letting it go again, so another process may take it before the server does.
//! Then the server ends, and its restart gets another port. What must not happen is that two of our own servers
//! are given the same one, and the probe of the second is answered by the first: hence the list of leases.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Mutex, MutexGuard, PoisonError},
};

static LEASED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that is given to nobody else in this process while this value lives.
#[derive(Debug)]
pub(super) struct Port(u16);

impl Port {
    pub(super) fn lease() -> io::Result<Self> {
        const ATTEMPTS: u32 = 32;
        for _ in 0..ATTEMPTS {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            if leased().insert(port) {
                return Ok(Self(port));
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no free loopback port was found"))
    }

    pub(super) const fn number(&self) -> u16 {
        self.0
    }

    pub(super) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.0).into()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        leased().remove(&self.0);
    }
}

fn leased() -> MutexGuard<'static, BTreeSet<u16>> {
    LEASED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leased_ports_are_distinct_and_free() {
        let ports: Vec<_> = (0..200).map(|_| Port::lease().unwrap()).collect();
        let distinct: BTreeSet<_> = ports.iter().map(Port::number).collect();
        assert_eq!(distinct.len(), ports.len());
        TcpListener::bind(ports[0].address()).unwrap();
    }

    #[test]
    fn a_lease_ends_with_its_port() {
        // No port that the kernel picks, so that no other test leases it meanwhile.
        leased().insert(1);
        drop(Port(1));
        assert!(!leased().contains(&1));
    }
}
