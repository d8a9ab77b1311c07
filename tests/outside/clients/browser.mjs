// A host of MCP Apps in Chromium: shows the page of one tool, and looks whether it updates itself, by calls of its own.
// Prints what each step came to, as JSON.
import { createServer } from "node:http";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { told } from "./driver.mjs";

const SHOWN_WITHIN_MS = 60_000;
const UPDATED_WITHIN_MS = 20_000;
const { port, browser: program, click, ...shown } = JSON.parse(process.argv[2]);
const found = {};

const bundled = await build({
  entryPoints: [new URL("./browser_page.mjs", import.meta.url).pathname],
  bundle: true,
  write: false,
  format: "iife",
  logLevel: "silent",
});
const parts = {
  "/": ["text/html", "<!doctype html><meta charset=utf-8><body><script src=/host.js></script>"],
  "/host.js": ["text/javascript", bundled.outputFiles[0].text],
};
const server = createServer((request, response) => {
  const [type, text] = parts[request.url] ?? ["text/plain", ""];
  response.writeHead(text ? 200 : 404, { "Content-Type": type }).end(text);
});
await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));

const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${port}/#${encodeURIComponent(JSON.stringify(shown))}`);
  await page.waitForFunction(() => window.stage, undefined, { timeout: SHOWN_WITHIN_MS });
  found.shown = await page.evaluate(() => window.stage);
  const frame = page.frames().find((one) => one !== page.mainFrame());
  const text = async () => (await frame.locator("body").innerText()).replace(/\s+/g, " ");
  found.text = (await text()).slice(0, 300);
  const before = await text();
  if (click) await frame.locator(click).first().click();
  const deadline = Date.now() + UPDATED_WITHIN_MS;
  let after = before;
  while (after === before && Date.now() < deadline) {
    await page.waitForTimeout(200);
    after = await text();
  }
  found.called = (await page.evaluate(() => window.called)).join(" ");
  found.updates = after === before ? `no, it still shows ${before.slice(0, 200)}` : "yes";
} catch (error) {
  found.error = told(error);
} finally {
  await browser.close();
}
process.stdout.write(JSON.stringify(found) + "\n");
process.exit(0);
