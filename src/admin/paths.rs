//! Which paths are ours, who may ask them, and the shape of their errors.

/// Who a path is for. Denied by default: what is not listed asks for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Anyone. A sign-in checks for itself who asks.
    Open,
    /// A caller, about its own key (SPEC section 5).
    OwnKey,
    /// A user, about what is theirs; operators too.
    User,
    Operator,
}

/// Open on every port.
const OPEN: [&str; 3] = ["/", "/health", "/healthz"];
/// Open on the side port, and on the edge where the admin service is mounted there.
const OPEN_OF_ADMIN: [&str; 5] = [
    "/openapi.json",
    "/admin/docs",
    "/admin/login",
    "/api/auth/login",
    "/api/auth/register",
];
/// Never on the edge.
const METRICS: &str = "/metrics";
const OWN_KEY: [&str; 6] = [
    "/usage",
    "/api/v1/validate",
    "/api/v1/use",
    "/api/v1/quota",
    "/api/v1/usage",
    "/api/usage",
];
const USER: [&str; 3] = ["/api/v1/api-keys", "/api/auth/me", "/api/auth/logout"];
/// Paths that belong to the proxy on every port: never forwarded.
const OURS: [&str; 7] = [
    "/admin",
    "/api",
    "/metrics",
    "/openapi.json",
    "/usage",
    "/health",
    "/healthz",
];

fn below(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn below_any(path: &str, roots: &[&str]) -> bool {
    roots.iter().any(|root| below(path, root))
}

/// Whether a path belongs to the proxy's own interfaces.
pub fn is_ours(path: &str) -> bool {
    path == "/" || below_any(path, &OURS)
}

impl Area {
    pub fn of(path: &str) -> Area {
        let open = OPEN.contains(&path)
            || path == METRICS
            || OPEN_OF_ADMIN.contains(&path)
            || below(path, "/admin/docs");
        if open {
            Area::Open
        } else if below_any(path, &OWN_KEY) {
            Area::OwnKey
        } else if below_any(path, &USER) {
            Area::User
        } else {
            Area::Operator
        }
    }

    /// Whether the edge answers a path of ours, by its configuration.
    pub fn on_edge(path: &str, self_service: bool, mount_admin: bool) -> bool {
        if OPEN.contains(&path) {
            return true;
        }
        match Area::of(path) {
            _ if path == METRICS => false,
            Area::OwnKey => self_service,
            Area::Open | Area::User | Area::Operator => mount_admin,
        }
    }
}

/// The shape of an error's body (SPEC section 3, "Errors").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{"detail": …}`.
    Detail,
    /// `{"error": {"code", "message", "details"}}`.
    Coded,
}

impl Shape {
    pub fn of(path: &str) -> Shape {
        let coded = below(path, "/api/v1") || below(path, "/admin/keys") || path == "/admin/usage";
        if coded { Shape::Coded } else { Shape::Detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_asks_for_an_operator() {
        for path in [
            "/admin",
            "/admin/keys",
            "/admin/docsx",
            "/nonsense",
            "/api/keys",
        ] {
            assert_eq!(Area::of(path), Area::Operator, "{path}");
        }
        assert_eq!(Area::of("/api/v1/use/batch"), Area::OwnKey);
        assert_eq!(Area::of("/api/v1/api-keys/3"), Area::User);
        assert_eq!(Area::of("/admin/docs/index.css"), Area::Open);
    }

    #[test]
    fn the_edge_answers_callers_and_the_admin_service_only_where_it_is_mounted() {
        assert!(Area::on_edge("/api/usage", true, false));
        assert!(!Area::on_edge("/api/usage", false, false));
        assert!(!Area::on_edge("/admin/login", true, false));
        assert!(Area::on_edge("/admin/login", true, true));
        assert!(!Area::on_edge("/metrics", true, true));
        assert!(Area::on_edge("/health", false, false));
    }

    #[test]
    fn our_paths_are_never_forwarded() {
        for path in [
            "/admin",
            "/admin/api-keys",
            "/api/usage",
            "/usage",
            "/metrics",
            "/",
        ] {
            assert!(is_ours(path), "{path}");
        }
        for path in [
            "/v1/chat/completions",
            "/administration",
            "/apis",
            "/v1/usage",
        ] {
            assert!(!is_ours(path), "{path}");
        }
    }
}
