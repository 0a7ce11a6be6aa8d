//! What the pools are and how their peers fare (`GET /admin/pools`), for operators and for metrics.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use crate::config::{Balance, PeerConfig};
use crate::telemetry::peers::PeerState;
use crate::time::UnixMs;
use crate::upstream::failover::Need;
use crate::upstream::{Fitness, Peer, Pool, Pools};

/// All pools, in the order in which they are asked.
#[derive(Debug, Serialize, ToSchema)]
pub struct PoolList {
    pools: Vec<PoolItem>,
}

/// One pool.
#[derive(Debug, Serialize, ToSchema)]
pub struct PoolItem {
    name: String,
    /// `openai`, `anthropic` or `gemini`.
    #[schema(value_type = String)]
    dialect: crate::metering::Dialect,
    models: Vec<String>,
    /// `round_robin`, `least_connections`, `weighted`, `consistent_hash` or `fallback`.
    balance: &'static str,
    /// Pools to try when this one cannot serve; null: the others that serve the model.
    fallback: Option<Vec<String>>,
    peers: Vec<PeerItem>,
}

/// One peer, as traffic and checks have shown it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PeerItem {
    name: String,
    /// Without a credential.
    url: String,
    /// `fit`: it is asked; `tight`: its provider said that its own limit is near; `doubtful`: its rest
    /// is over, the next exchange is its probe; `resting`: it is asked only where no other is left.
    state: &'static str,
    /// Its health checks fail.
    down: bool,
    /// Failures in a row.
    failures: u32,
    #[schema(value_type = Option<String>, format = DateTime)]
    rests_until: Option<UnixMs>,
    /// Exchanges that it serves now.
    running: i64,
    /// 0: it takes no exchanges.
    weight: u32,
}

/// The pools and the state of their peers.
#[utoipa::path(
    get, path = "/admin/pools", tag = "pools",
    responses((status = 200, body = PoolList)),
)]
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Json<PoolList> {
    let clocks = (admin.now(), Instant::now());
    let live = admin.state.desk.live.load();
    let pools = live.pools.all().iter();
    Json(PoolList {
        pools: pools.map(|pool| pool_item(pool, clocks)).collect(),
    })
}

/// Every configured peer as metrics show it.
pub(super) fn peer_states(pools: &Pools, now: Instant) -> Vec<PeerState> {
    let states = pools.all().iter().flat_map(|pool| {
        pool.peers.iter().map(|peer| PeerState {
            pool: pool.config.name.clone(),
            peer: peer.name.clone(),
            healthy: matches!(
                peer.health.fitness(&Need::NOTHING, now),
                Fitness::Fit | Fitness::Tight
            ),
            running: peer.health.running(),
            down: peer.health.is_down(),
        })
    });
    states.collect()
}

fn pool_item(pool: &Pool, clocks: (UnixMs, Instant)) -> PoolItem {
    let config = &pool.config;
    PoolItem {
        name: config.name.clone(),
        dialect: config.dialect,
        models: config.models.clone(),
        balance: match config.balance {
            Balance::RoundRobin => "round_robin",
            Balance::LeastConnections => "least_connections",
            Balance::Weighted => "weighted",
            Balance::ConsistentHash => "consistent_hash",
            Balance::Fallback => "fallback",
        },
        fallback: config.fallback.clone(),
        peers: pool
            .peers
            .iter()
            .map(|peer| peer_item(peer, clocks))
            .collect(),
    }
}

fn peer_item(peer: &Peer, (wall, now): (UnixMs, Instant)) -> PeerItem {
    let health = &peer.health;
    PeerItem {
        name: peer.name.clone(),
        url: url(&peer.config),
        state: match health.fitness(&Need::NOTHING, now) {
            Fitness::Fit => "fit",
            Fitness::Tight => "tight",
            Fitness::Doubtful => "doubtful",
            Fitness::Resting => "resting",
        },
        down: health.is_down(),
        failures: health.failures(),
        rests_until: health.rests_for(now).map(|left| {
            // A rest is a duration: where the wall clock is set meanwhile, its end moves along.
            wall.plus_ms(i64::try_from(left.as_millis()).unwrap_or(i64::MAX))
        }),
        running: health.running(),
        weight: peer.config.weight,
    }
}

fn url(config: &PeerConfig) -> String {
    let scheme = if config.tls { "https" } else { "http" };
    format!("{scheme}://{}{}", config.name(), config.base_path)
}
