// The real cron-parser, the one that BullMQ uses: `node cron.mjs` reads from stdin, as one line of JSON, what is asked, and
// says on stdout as one line what the answers are:
//
//   {"texts": ["* * * * *", ...], "asked": [["* * * * *", "UTC", 0, 6], ...]}      pattern, zone, ms, how many times
//   {"accepted": [true, ...], "fires": [[60000, 120000, ...], ...]}     a time is null, and the last, where it finds none
//
// Each time is asked anew with the time before, as BullMQ does.
import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const { CronExpressionParser } = createRequire(import.meta.resolve("bullmq"))("cron-parser");

function isAccepted(pattern) {
  try {
    CronExpressionParser.parse(pattern, { tz: "UTC" });
    return true;
  } catch {
    return false;
  }
}

function firesOf([pattern, tz, ms, count]) {
  const expression = CronExpressionParser.parse(pattern, { tz });
  const fires = [];
  while (fires.length < count && ms !== null) {
    ms = firstAfter(expression, ms);
    fires.push(ms);
  }
  return fires;
}

function firstAfter(expression, ms) {
  expression.reset(new Date(ms)); // it keeps nothing of the time before: the same as to parse again, in less time
  try {
    return expression.next().getTime();
  } catch {
    return null;
  }
}

const { texts, asked } = JSON.parse(await text(process.stdin));
process.stdout.write(JSON.stringify({ accepted: texts.map(isAccepted), fires: asked.map(firesOf) }) + "\n");
