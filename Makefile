# The commands of README: `make run`, `make fleet` and `make test`. They install what they lack (Debian).

CARGO ?= cargo
# Tests wait more than they compute.
TEST_THREADS ?= 3
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: run fleet build deb test lint bench soak tools redis test-tools soak-tools promtool clean

run: build
	exec target/release/quota-proxy demo

fleet: build redis
	exec target/release/quota-proxy demo --redis

build: tools
	$(CARGO) build --release --locked

deb: build
	systemd/deb/build target/release/quota-proxy target

test: tools test-tools
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked --document-private-items
	$(CARGO) test --locked --no-fail-fast -- --test-threads=$(TEST_THREADS)

lint: tools
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

bench: tools redis
	$(CARGO) bench --locked

soak: tools test-tools soak-tools
	QUOTA_PROXY_SOAK=1 $(CARGO) test --release --locked -- --include-ignored

tools:
	@command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs"; exit 1; }
	@missing=""; \
	 command -v cmake >/dev/null || missing="$$missing cmake"; \
	 command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	 command -v c++ >/dev/null || missing="$$missing g++"; \
	 command -v perl >/dev/null || missing="$$missing perl"; \
	 [ -z "$$missing" ] || { echo "installing$$missing"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq $$missing; }

redis:
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null || \
	 { echo "installing redis-server"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq redis-server; }

test-tools: promtool
	@missing=""; \
	 command -v python3 >/dev/null || missing="$$missing python3"; \
	 python3 -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	 command -v npm >/dev/null || missing="$$missing nodejs npm"; \
	 [ -x /usr/sbin/nginx ] || missing="$$missing nginx-light"; \
	 [ -x /usr/sbin/haproxy ] || missing="$$missing haproxy"; \
	 command -v sqlite3 >/dev/null || missing="$$missing sqlite3"; \
	 command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	 command -v curl >/dev/null || missing="$$missing curl"; \
	 command -v openssl >/dev/null || missing="$$missing openssl"; \
	 command -v systemd-analyze >/dev/null || missing="$$missing systemd"; \
	 command -v dpkg-shlibdeps >/dev/null || missing="$$missing dpkg-dev"; \
	 command -v groff >/dev/null || missing="$$missing groff-base"; \
	 [ -x /usr/sbin/logrotate ] || missing="$$missing logrotate"; \
	 [ -z "$$missing" ] || { echo "installing$$missing"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq $$missing; }

# A Debian to boot.
soak-tools:
	@missing=""; \
	 command -v debootstrap >/dev/null || [ -x /usr/sbin/debootstrap ] || missing="$$missing debootstrap"; \
	 command -v systemd-nspawn >/dev/null || missing="$$missing systemd-container"; \
	 [ -z "$$missing" ] || { echo "installing$$missing"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq $$missing; }

# Of Debian's Prometheus this one program, and not the server with its service.
promtool:
	@command -v promtool >/dev/null || { echo "installing promtool"; folder=$$(mktemp -d); cd $$folder; \
	 $(SUDO) apt-get update -qq && apt-get download -qq prometheus && \
	 dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool && \
	 $(SUDO) install usr/bin/promtool /usr/local/bin/promtool; done=$$?; rm -rf "$$folder"; exit $$done; }

clean:
	$(CARGO) clean
