// An upstream that counts: says where it listens, then a line for each request that it has read whole.
import http from "node:http";

const server = http.createServer((request, response) => {
  request.on("data", () => {});
  request.on("end", () => {
    console.log(`200 ${request.method} ${request.url}`);
    const wish = /tokens=(\d+)/.exec(request.headers["x-fake"] ?? "");
    const tokens = Number(wish?.[1] ?? 1);
    const usage = { prompt_tokens: 1, completion_tokens: tokens, total_tokens: tokens + 1 };
    const body = JSON.stringify({ object: "chat.completion", model: "gpt-4o", choices: [], usage });
    const length = Buffer.byteLength(body);
    response.writeHead(200, { "content-type": "application/json", "content-length": length });
    response.end(body);
  });
});
server.on("clientError", (error, socket) => {
  console.log(`fault ${error.code}`);
  socket.destroy();
});
server.listen(0, "127.0.0.1", () => console.log(`listening ${server.address().port}`));
