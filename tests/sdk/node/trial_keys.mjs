// Trial keys and uses with axios, as its users write it. Surroundings, beside those of
// ../python/scenario.py: ADMIN_URL, ADMIN_TOKEN.

import axios, { AxiosError } from "axios";
import { assert, baseUrl, equal, run } from "./scenario.mjs";

const admin = axios.create({
  baseURL: process.env.ADMIN_URL,
  headers: { Authorization: `Bearer ${process.env.ADMIN_TOKEN}` },
});

async function failed(promise) {
  try {
    await promise;
  } catch (error) {
    if (error instanceof AxiosError && error.response) return error.response;
    throw error;
  }
  throw new Error("an error was expected");
}

await run({
  async aKeyIsUsedUntilItIsExhausted() {
    const made = (await admin.post("/admin/keys", { prefix: "roc", quota: 6 })).data;
    const caller = axios.create({ baseURL: baseUrl, headers: { "X-API-Key": made.key } });
    const valid = (await caller.get("/api/v1/validate")).data;
    assert(valid.valid && valid.remaining === 6 && valid.expiresAt === null, valid);
    equal((await caller.post("/api/v1/use")).data.remaining, 5);
    const metadata = { page: 1 };
    const used = await caller.post("/api/v1/use", { amount: 2, reason: "a report", metadata });
    equal([used.data.amountUsed, used.data.remaining, used.data.totalQuota], [2, 3, 6]);
    const batch = [{ amount: 1, reason: "one" }, { amount: 2, reason: "two" }];
    const drawn = (await caller.post("/api/v1/use/batch", batch)).data;
    equal(drawn.items.map((item) => item.remaining), [2, 0]);
    const quota = (await caller.get("/api/v1/quota")).data;
    equal([quota.quota, quota.used, quota.remaining], [6, 6, 0]);
    const history = (await caller.get("/api/v1/usage/history", { params: { limit: 3 } })).data;
    equal([history.total, history.limit, history.offset], [4, 3, 0]);
    equal(history.history.map((entry) => entry.reason), ["two", "one", "a report"]);
    equal(history.history[2].metadata, metadata);
    const refused = await failed(caller.post("/api/v1/use", { amount: 1 }));
    equal([refused.status, refused.data.error.code], [429, "QUOTA_EXCEEDED"]);
    equal(refused.data.error.details, { key: quota.key, remaining: 0, requested: 1 });
  },

  async anOperatorManagesKeys() {
    const made = (await admin.post("/admin/keys", { name: "trial", max_calls: 3, valid_days: 7 })).data;
    const listed = (await admin.get("/admin/keys")).data;
    const line = listed.keys.find((key) => key.id === made.id);
    assert(line.name === "trial" && line.active && line.used === 0, line);
    const caller = axios.create({ baseURL: baseUrl, headers: { Authorization: `Bearer ${made.key}` } });
    await caller.post("/api/v1/use", { amount: 3 });
    const reset = (await admin.post("/admin/keys/reset", { id: made.id, newQuota: 9 })).data;
    equal([reset.success, reset.remaining], [true, 9]);
    await admin.post("/admin/keys/disable", { key: made.key });
    const refused = await failed(caller.get("/api/v1/validate"));
    equal([refused.status, refused.data.error.code], [403, "KEY_DISABLED"]);
    await admin.post("/admin/keys/enable", { key: made.key });
    equal((await caller.get("/api/v1/validate")).data.remaining, 9);
    // axios sends no body with a GET unless it is told to.
    const data = { startDate: "2026-01-01", endDate: "2099-12-31" };
    const usage = (await admin.get("/admin/usage", { data })).data;
    equal(usage.details.find((detail) => detail.id === made.id).used, 3);
    const nobody = await failed(admin.post("/admin/keys/disable", { key: "roc_nobody" }));
    equal([nobody.status, nobody.data.error.code], [404, "KEY_NOT_FOUND"]);
  },
});
