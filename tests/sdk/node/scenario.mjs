// What the Node scripts share; the surroundings are those of ../python/scenario.py.

export const baseUrl = process.env.BASE_URL;
export const apiKey = process.env.API_KEY;
export const behindProxy = process.env.BEHIND_PROXY === "1";
// More than the proxy takes in these tests.
export const large = "x".repeat(3 << 20);

export function assert(holds, ...seen) {
  if (!holds) throw new Error(`does not hold; seen: ${seen.map((x) => JSON.stringify(x))}`);
}

export function equal(seen, expected) {
  assert(JSON.stringify(seen) === JSON.stringify(expected), seen, expected);
}

export const words = (text) => text.split(" ").filter(Boolean).length;

async function upstreamRequests() {
  const answer = await fetch(process.env.LEDGER_URL);
  return (await answer.json()).requests;
}

// The error of `kind` that `call` throws, and how many requests reached the provider by it.
export async function thrown(kind, call) {
  const before = await upstreamRequests();
  try {
    await call();
  } catch (error) {
    if (!(error instanceof kind)) throw error;
    return [error, (await upstreamRequests()) - before];
  }
  throw new Error(`${kind.name} was expected`);
}

export async function run(scenarios) {
  let failed = 0;
  for (const [name, scenario] of Object.entries(scenarios)) {
    try {
      await scenario();
      console.log("ok  ", name);
    } catch (error) {
      failed += 1;
      console.log("FAIL", name, error);
    }
  }
  const all = Object.keys(scenarios).length;
  console.log(`${all - failed} of ${all} scenarios passed`);
  process.exit(failed || !all ? 1 : 0);
}
