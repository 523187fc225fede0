// Follows a node with the npm package eventsource, which comes again by itself, until the last event is there.
import { EventSource } from "eventsource";

const [url, token, last] = process.argv.slice(2);
const source = new EventSource(`${url}/v1/events?topic=a&from=start`, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } }),
});
// While it waits to come again, this client does not keep the program from ending.
const awake = setInterval(() => {}, 1000);
for (const kind of ["event", "gap", "caught-up"]) {
  source.addEventListener(kind, ({ data }) => {
    console.log(kind, data);
    if (kind === "event" && JSON.parse(data).id === last) {
      source.close();
      clearInterval(awake);
    }
  });
}
// It comes again by itself unless it was answered with something else than events.
source.addEventListener("error", ({ code }) => {
  if (code) {
    console.error("refused with", code);
    process.exit(1);
  }
});
