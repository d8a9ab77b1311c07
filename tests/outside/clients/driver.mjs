// The loop of every JavaScript client script: one JSON command a line on stdin, one JSON answer a line on stdout.
// The same protocol as driver.py: `connect(url, token)`, `tools()`, `call(name, args)` -> [how, text], `close()`.
import { createInterface } from "node:readline";

const write = process.stdout.write.bind(process.stdout);
console.log = console.info = console.debug = console.error;

export async function drive(client) {
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    let answer;
    try {
      const work = Promise.resolve(client[command.step](...command.with));
      answer = { ok: true, value: (await within(work, command.within_s)) ?? null };
    } catch (error) {
      answer = { ok: false, error: told(error) };
    }
    answer.number = command.number;
    write(JSON.stringify(answer) + "\n");
  }
  process.exit(0); // Open streams would keep the process.
}

async function within(work, seconds) {
  let timer;
  const limit = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error(`not within ${seconds} s`)), seconds * 1000);
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}

export function told(error) {
  const found = [];
  for (let one = error; one && found.length < 8; one = one.cause) found.push(`${one.name ?? typeof one}: ${one.message ?? one}`);
  return found.join(" | ").slice(0, 1500);
}

export const headers = (token) => (token ? { Authorization: `Bearer ${token}` } : {});

export const textOf = (content) => (content ?? []).map((one) => one.text).filter(Boolean).join("\n");

process.on("unhandledRejection", (error) => process.stderr.write(`unhandled: ${told(error)}\n`));
