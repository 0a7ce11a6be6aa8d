#!/bin/bash
# What an operator does, on a machine of its own: run once by a unit of a booted Debian, see machine.rs.
# Every step must succeed; the last line that was traced tells which did not.
set -eux

admin_token() { sed -n 's/^ADMIN_TOKEN=//p' /etc/quota-proxy/env; }
main_pid() { systemctl show --property MainPID --value quota-proxy; }
# An answer of so many pieces, ten in a second, into a file.
stream() {
	curl -sN -o "/root/$2" http://127.0.0.1:8787/v1/chat/completions -H "Authorization: Bearer $key" \
		-H 'content-type: application/json' -H "x-fake: tokens=$1,interval=100ms" \
		-d '{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"hi"}]}' &
	streaming=$!
	sleep 1
}
is_whole() {
	wait "$streaming"
	grep -qF 'data: [DONE]' "/root/$1"
}
healthy() { curl -sf http://127.0.0.1:8787/healthz | grep -qF '"ok"'; }
eventually() {
	for _ in $(seq 100); do
		if "$@"; then return; fi
		sleep 0.2
	done
	"$@"
}
refused() { if "$@"; then return 1; fi; }

# It installs and serves.
dpkg -i /root/quota-proxy.deb
systemctl is-active quota-proxy
healthy
[ "$(stat -c %a /run/quota-proxy /var/lib/private/quota-proxy /var/log/private/quota-proxy | xargs)" = "700 700 750" ]
journalctl --unit quota-proxy --grep 'listening on' | grep -q edge

# A reload takes a good file and refuses a bad one.
systemd-run --quiet --unit fake quota-proxy fake-upstream --listen 127.0.0.1:9100
cp /root/trial.yaml /etc/quota-proxy/quota-proxy.yaml
systemctl reload quota-proxy
ADMIN_TOKEN=$(admin_token) quota-proxy key create --name trial --json >/root/key.json
key=$(sed -n 's/.*"api_key": *"\([^"]*\)".*/\1/p' /root/key.json)
stream 1 first
is_whole first
sed -i 's/dialect:/dialekt:/' /etc/quota-proxy/quota-proxy.yaml
refused systemctl reload quota-proxy
journalctl --unit quota-proxy --grep 'did you mean' | grep -q dialekt
stream 1 second
is_whole second
sed -i 's/dialekt:/dialect:/' /etc/quota-proxy/quota-proxy.yaml
systemctl reload quota-proxy

# A new binary takes over under a stream, and systemd follows it.
before=$(main_pid)
stream 40 upgraded
quota-proxy upgrade
[ "$(main_pid)" != "$before" ]
healthy
is_whole upgraded
refused quota-proxy upgrade --binary /bin/false
refused runuser -u nobody -- quota-proxy upgrade
healthy
gone() { ! kill -0 "$before" 2>/dev/null; }
eventually gone
# Its death is noticed, though it was nobody's child of systemd.
before=$(main_pid)
kill -9 "$before"
restarted() { [ "$(main_pid)" != "$before" ] && healthy; }
eventually restarted

# A package that is installed over it does the same.
before=$(main_pid)
stream 40 installed
dpkg -i /root/quota-proxy.deb
[ "$(main_pid)" != "$before" ]
is_whole installed

# Rotation: the service's own user owns both files.
logrotate --force /etc/logrotate.d/quota-proxy
stream 1 rotated
is_whole rotated
written() { [ -s /var/log/quota-proxy/access.jsonl ] && [ -s /var/log/quota-proxy/access.jsonl.1 ]; }
eventually written

# A stop lets both processes' streams end.
stream 40 both
quota-proxy upgrade
stream 20 stopped
systemctl stop quota-proxy
is_whole stopped
grep -qF 'data: [DONE]' /root/both
[ "$(systemctl show --property Result --value quota-proxy)" = success ]
systemctl start quota-proxy
curl -sf -H "Authorization: Bearer $(admin_token)" http://127.0.0.1:8788/admin/invariants | grep -q '"holds":true,"settled"'

# It leaves, and a purge leaves nothing.
dpkg -r quota-proxy
[ -e /etc/quota-proxy/env ] && [ -e /var/lib/private/quota-proxy/quota.db ]
dpkg -P quota-proxy
for left in /etc/quota-proxy /var/lib/quota-proxy /var/lib/private/quota-proxy /var/log/quota-proxy \
	/var/log/private/quota-proxy /run/quota-proxy /etc/logrotate.d/quota-proxy \
	/etc/systemd/system/multi-user.target.wants/quota-proxy.service; do
	[ ! -e "$left" ] && [ ! -L "$left" ]
done
refused systemctl status quota-proxy
