-- Nano-USD for tokens at a price per million, rounded up; exact although the product may not be.
local function cost_of(tokens, price)
  if tokens <= 0 or price <= 0 then return 0 end
  local price_rest = fmod(price, 1000000)
  local tokens_rest = fmod(tokens, 1000000)
  local whole = tokens * ((price - price_rest) / 1000000) + ((tokens - tokens_rest) / 1000000) * price_rest
  return min(whole + math.ceil(tokens_rest * price_rest / 1000000), MOST)
end

-- The most tokens that cost at most `nano`.
local function tokens_for(nano, price)
  if price <= 0 or nano == math.huge then return math.huge end
  nano = max(nano, 0)
  local rest = fmod(nano, price)
  local tokens = (nano - rest) / price * 1000000
  local scaled = rest * 1000
  local low = fmod(scaled, price)
  tokens = tokens + (scaled - low) / price * 1000
  scaled = low * 1000
  return tokens + (scaled - fmod(scaled, price)) / price
end
