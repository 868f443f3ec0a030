// The real Bull Board: `node board_server.mjs <redis url>` serves it on a free port of 127.0.0.1 and says which in a line
// of JSON on stdout. It ends with whoever holds its stdin, and obeys lines of JSON there:
//
//   {"n": 1, "do": "show", "prefix": "bull", "queues": ["mail"]}   the board is of these queues -> {"n": 1, "answer": null}
import { createInterface } from "node:readline";
import { createBullBoard } from "@bull-board/api";
import { BullMQAdapter } from "@bull-board/api/bullMQAdapter";
import { ExpressAdapter } from "@bull-board/express";
import { Queue } from "bullmq";
import express from "express";

const { hostname: host, port, pathname } = new URL(process.argv[2]);
const connection = { host, port: Number(port), db: Number(pathname.slice(1) || 0) };

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const uiConfig = { showMetrics: true, pollingInterval: { forceInterval: 1 } };
const pages = new ExpressAdapter();
const board = createBullBoard({ queues: [], serverAdapter: pages, options: { uiConfig } });

let shown = [];

async function show(prefix, names) {
  const hidden = shown;
  shown = names.map((name) => new Queue(name, { prefix, connection }));
  await Promise.all(shown.map((queue) => queue.waitUntilReady()));
  board.replaceQueues(shown.map((queue) => new BullMQAdapter(queue)));
  await Promise.all(hidden.map((queue) => queue.close()));
}

async function obey(line) {
  const { n, prefix, queues } = JSON.parse(line);
  try {
    await show(prefix, queues);
    say({ n, answer: null });
  } catch (error) {
    say({ n, error: { message: error.message } });
  }
}

createInterface({ input: process.stdin })
  .on("line", obey)
  .on("close", () => process.exit(0));

const server = express()
  .use(pages.getRouter())
  .listen(0, "127.0.0.1", () => say({ notice: "ready", port: server.address().port }));
