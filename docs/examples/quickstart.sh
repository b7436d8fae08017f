# Two domains, acme and beta, and a hub between them, on one machine. Each gateway offers one service to the other domain.
mkdir -p hawser-try && cd hawser-try

cat > hub.toml <<'END'
[hub]
listen = ["127.0.0.1:8443"]
public = "127.0.0.1:8443"
state = "hub"
allow = [
  { from = "acme", to = "beta", services = ["*"] },
  { from = "beta", to = "acme", services = ["*"] },
]
END
cat > acme.toml <<'END'
[gateway]
state = "acme"
proxy = { listen = ["127.0.0.1:3128"] }
[[gateway.export]]
name = "orders"
http = "http://127.0.0.1:8001"
allow = [{ domains = ["beta"], methods = ["GET", "HEAD"] }]
END
cat > beta.toml <<'END'
[gateway]
state = "beta"
proxy = { listen = ["127.0.0.1:3129"] }
[[gateway.export]]
name = "ledger"
http = "http://127.0.0.1:8002"
allow = [{ domains = ["acme"] }]
END

# Each domain makes a root of its own, and the two administrators exchange peering tokens.
# (--yes skips the comparison of twelve words that protects a real exchange.)
hawser -c acme.toml domain init acme gw1
hawser -c beta.toml domain init beta gw1
hawser -c acme.toml domain peer token | hawser -c beta.toml domain peer accept --yes
hawser -c beta.toml domain peer token | hawser -c acme.toml domain peer accept --yes

# The hub lets both domains in, each with a one-time token.
hawser -c hub.toml hub & sleep 1
hawser -c hub.toml token hub acme | hawser -c acme.toml join
hawser -c hub.toml token hub beta | hawser -c beta.toml join
hawser -c acme.toml gateway &
hawser -c beta.toml gateway &

# Two services, and a call in each direction.
mkdir -p orders ledger && echo "three orders" > orders/today && echo "two entries" > ledger/today
python3 -m http.server --bind 127.0.0.1 --directory orders 8001 2> orders.log &
python3 -m http.server --bind 127.0.0.1 --directory ledger 8002 2> ledger.log &
curl -sSf --retry 20 --retry-delay 1 --retry-all-errors --proxy http://127.0.0.1:3128 http://ledger.beta.hawser/today
curl -sSf --retry 20 --retry-delay 1 --retry-all-errors --proxy http://127.0.0.1:3129 http://orders.acme.hawser/today
hawser -c acme.toml services
