//! Where the node listens: Redis and HTTP, each in clear, over TLS, or both.
//!
//! All ports are bound before anything else is done, so that one in use is told at once. Each data
//! thread has listeners of its own.

use std::{
    fmt,
    net::{SocketAddr, TcpListener},
};

use holdfast_base::Error;

use crate::{Config, PortPolicy, ports::listen, worker::Door};

/// Where the node is reached. Shown as the words of the line that it prints when ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// The Redis protocol in clear.
    pub redis: Option<SocketAddr>,
    /// The Redis protocol over TLS.
    pub redis_tls: Option<SocketAddr>,
    /// HTTP in clear.
    pub http: Option<SocketAddr>,
    /// HTTP over TLS.
    pub http_tls: Option<SocketAddr>,
}

impl Addresses {
    fn all(&self) -> [(&'static str, Option<SocketAddr>); 4] {
        [
            ("redis", self.redis),
            ("redis-tls", self.redis_tls),
            ("http", self.http),
            ("http-tls", self.http_tls),
        ]
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for (name, addr) in self.all() {
            if let Some(addr) = addr {
                write!(f, "{space}{name}={addr}")?;
                space = " ";
            }
        }
        Ok(())
    }
}

/// See the module's head.
pub(crate) struct Listeners {
    pub addresses: Addresses,
    /// The doors of each data thread.
    pub redis: Vec<Vec<Door>>,
    pub http: Vec<Door>,
}

impl Listeners {
    /// Binds what the settings name, for so many data threads.
    pub(crate) fn open(
        config: &Config,
        data_threads: usize,
        policy: PortPolicy,
    ) -> Result<Listeners, Error> {
        let mut redis: Vec<Vec<Door>> = (0..data_threads).map(|_| Vec::new()).collect();
        let mut http = Vec::new();
        let bind = |what: &str, addr: Option<SocketAddr>, count: usize| {
            let bound = addr.map(|addr| listen(what, addr, count, policy)).transpose()?;
            Ok::<_, Error>(match bound {
                Some((addr, listeners)) => (Some(addr), listeners),
                None => (None, Vec::new()),
            })
        };
        let door = |tls| move |listener: TcpListener| Door { listener, tls };
        let mut bind_redis = |what: &str, addr: Option<SocketAddr>, tls: bool| {
            let (addr, listeners) = bind(what, addr, data_threads)?;
            for (doors, listener) in redis.iter_mut().zip(listeners) {
                doors.push(door(tls)(listener));
            }
            Ok::<_, Error>(addr)
        };
        let mut addresses = Addresses {
            redis: bind_redis("redis", config.redis_addr, false)?,
            redis_tls: bind_redis("redis over TLS", config.redis_tls_addr, true)?,
            http: None,
            http_tls: None,
        };
        for (what, addr, tls, bound) in [
            ("http", config.http_addr, false, &mut addresses.http),
            ("http over TLS", config.http_tls_addr, true, &mut addresses.http_tls),
        ] {
            let (addr, listeners) = bind(what, addr, 1)?;
            *bound = addr;
            http.extend(listeners.into_iter().map(door(tls)));
        }
        Ok(Listeners { addresses, redis, http })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_what_is_there_and_nothing_else() -> Result<(), Error> {
        let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let config = Config { redis_addr: any, http_addr: None, ..Config::default() };
        let listeners = Listeners::open(&config, 2, PortPolicy::AsConfigured)?;
        let redis = listeners.addresses.redis.map(|addr| addr.to_string()).unwrap_or_default();
        assert_eq!(listeners.addresses.to_string(), format!("redis={redis}"));
        assert_eq!(listeners.redis.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);

        let config = Config { redis_addr: None, redis_tls_addr: any, http_addr: any, ..config };
        let listeners = Listeners::open(&config, 1, PortPolicy::AsConfigured)?;
        let line = listeners.addresses.to_string();
        assert!(line.starts_with("redis-tls=127.0.0.1:") && line.contains(" http=127."), "{line}");
        assert!(listeners.redis[0][0].tls && !listeners.http[0].tls);
        Ok(())
    }
}
