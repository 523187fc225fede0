// Ships what was charged: a service for Node, with nothing but what comes with it.
//
// It follows `payments.charged` at the node beside it, and says in `orders.shipped` what it did. It keeps its place in a
// file, and repeats itself under the same ids after a crash, so that the node stores nothing twice.
//
//     node ship.mjs SOCKET PLACE-FILE

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const [socketPath, placeFile] = process.argv.slice(2);

function call(method, path, headers = {}, body = undefined) {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, method, path, headers }, (answer) => {
      if (answer.statusCode < 300) return resolve(answer);
      answer.resume();
      reject(new Error(`${path}: ${answer.statusCode}`));
    });
    request.on("error", reject);
    request.end(body);
  });
}

async function json(answer) {
  let text = "";
  for await (const chunk of answer.setEncoding("utf8")) text += chunk;
  return JSON.parse(text);
}

async function ship(payment) {
  const event = {
    specversion: "1.0",
    id: `ship-${payment.data.order}`, // the same whenever this order is shipped
    source: "/ship",
    type: "order.shipped",
    causationid: payment.id,
    correlationid: payment.correlationid,
    data: { order: payment.data.order, paid: payment.data.total },
  };
  const headers = { "content-type": "application/cloudevents+json" };
  const answer = await json(await call("POST", "/v1/topics/orders.shipped/events", headers, JSON.stringify(event)));
  console.log(`shipped ${event.data.order}${answer.events[0].duplicate ? " again" : ""}`);
}

async function follow() {
  const place = existsSync(placeFile) ? readFileSync(placeFile, "utf8") : "0";
  const events = await call("GET", `/v1/events?topic=payments.charged&follow=true&from=arrival:${place}`);
  let rest = "";
  for await (const chunk of events.setEncoding("utf8")) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line) continue;
      const payment = JSON.parse(line);
      await ship(payment);
      // Several events may have arrived together, so that the place is before them.
      writeFileSync(placeFile, String(BigInt(payment.rdlarrival) - 1n));
    }
  }
}

for (;;) {
  await follow().catch((error) => console.error(`the node does not answer: ${error.message}`));
  await sleep(500);
}
