// Publishes with the CloudEvents SDK in every mode it has, and reads the same events back with it.
//
// Usage: node exchange.mjs SOCKET

import assert from "node:assert/strict";
import http from "node:http";
import { createRequire } from "node:module";

const { CloudEvent, HTTP } = createRequire(process.cwd() + "/")("cloudevents");

function call(method, path, headers = {}, body = undefined) {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath: process.argv[2], method, path, headers }, (answer) => {
      const chunks = [];
      answer.on("data", (chunk) => chunks.push(chunk));
      answer.on("end", () => resolve({ status: answer.statusCode, body: Buffer.concat(chunks).toString() }));
    });
    request.on("error", reject);
    request.end(body);
  });
}

async function publish({ headers, body }) {
  const answer = await call("POST", "/v1/topics/sdk.node/events", headers, body);
  assert.equal(answer.status, 201, answer.body);
  return JSON.parse(answer.body).events;
}

function event(id, data, datacontenttype = "application/json") {
  return new CloudEvent({
    id, source: "/sdk/node?a=b", type: "com.example.sdk", subject: "100% plain", time: "2026-01-31T09:00:00.123Z",
    datacontenttype, partitionkey: "k", data,
  });
}

const sent = [];
for (const [data, type] of [
  [{ n: [1.5, null, "ä"] }, "application/json"],
  ["größe", "text/plain"],
  [new Uint8Array([0, 137, 255]), "image/png"],
]) {
  for (const mode of ["structured", "binary"]) {
    const one = event(`${mode}-${sent.length}`, data, type);
    const message = HTTP[mode](one);
    const [first] = await publish(message);
    const [again] = await publish(message);
    assert.deepEqual([first.id, first.duplicate], [one.id, false]);
    assert.deepEqual([again.cursor, again.duplicate], [first.cursor, true]);
    sent.push(one);
  }
}
const batch = [0, 1, 2].map((n) => event(`batch-${n}`, { n }));
const headers = { "content-type": "application/cloudevents-batch+json" };
const places = await publish({ headers, body: JSON.stringify(batch) });
assert.deepEqual(places.map((place) => place.id), ["batch-0", "batch-1", "batch-2"]);
sent.push(...batch);

const answer = await call("GET", "/v1/events?topic=sdk.node&from=start");
assert.equal(answer.status, 200);
const lines = answer.body.split("\n").filter((line) => line);
const structured = { "content-type": "application/cloudevents+json" };
const read = lines.map((line) => HTTP.toEvent({ headers: structured, body: line }));
assert.equal(read.length, sent.length);
for (const [index, ours] of sent.entries()) {
  for (const name of ["id", "source", "type", "subject", "time", "datacontenttype", "partitionkey"]) {
    assert.equal(read[index][name], ours[name], name);
  }
  const bytes = (data) => (ArrayBuffer.isView(data) ? Array.from(data) : data);
  assert.deepEqual(bytes(read[index].data), bytes(ours.data), ours.id);
}
console.log("well");
