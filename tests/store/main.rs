//! The stores from outside: what disks, deaths and the network do to them, and many edges on one; and the
//! Redis servers and the fault proxy that tests rely on.

#[cfg(test)]
mod faults;
#[cfg(test)]
mod history;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod model;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod slices;

#[cfg(test)]
#[path = "../support/chance.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod chance;
#[cfg(test)]
#[path = "../support/engines.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod engines;
#[cfg(test)]
#[path = "../support/fault_proxy.rs"]
mod fault_proxy;
#[cfg(test)]
#[path = "../support/records.rs"]
mod records;
#[cfg(test)]
#[path = "../support/redis_cluster.rs"]
mod redis_cluster;
#[cfg(test)]
#[path = "../support/redis_sentinel.rs"]
mod redis_sentinel;
#[cfg(test)]
#[path = "../support/redis_server.rs"]
mod redis_server;
#[cfg(test)]
#[path = "../support/soak.rs"]
mod soak;
#[cfg(test)]
#[path = "../support/wait.rs"]
mod wait;
