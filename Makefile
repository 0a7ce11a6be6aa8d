# The commands of README: `make run`, `make fleet` and `make test`. They install what they lack (Debian).

CARGO ?= cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: run fleet build test lint bench soak tools redis test-tools clean

run: build
	exec target/release/quota-proxy demo

fleet: build redis
	exec target/release/quota-proxy demo --redis

build: tools
	$(CARGO) build --release --locked

test: tools test-tools
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked --document-private-items
	$(CARGO) test --locked --no-fail-fast

lint: tools
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

bench: tools redis
	$(CARGO) bench --locked

soak: tools test-tools
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

test-tools:
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
	 [ -z "$$missing" ] || { echo "installing$$missing"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq $$missing; }

clean:
	$(CARGO) clean
