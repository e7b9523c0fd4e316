// Drives the page as a person would: node page.mjs URL USER PASSWORD ADDRESS ROOM TOOLS
import { createRequire } from "node:module";
const [url, user, password, address, room, tools] = process.argv.slice(2);
const require = createRequire(tools + "/");
const { chromium } = require("playwright-core");

const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: flags });
const page = await (await browser.newContext({ ignoreHTTPSErrors: true, acceptDownloads: true })).newPage();
const wrong = [];
page.on("pageerror", (error) => wrong.push(`error on the page: ${error.message}`));
page.on("console", (message) => { if (message.type() === "error" && !/status of 40[01]/.test(message.text())) wrong.push(`console: ${message.text()}`); });
const holds = (what) => console.log(`holds: ${what}`);

// The page's policy lets no foreign script in, so the checker looks at it in a context of its own, signed in as the same user.
async function accessible(view, hash, prepare = async () => {}) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, bypassCSP: true, storageState: await page.context().storageState() });
  const other = await context.newPage();
  await other.goto(`${url}/${hash}`);
  await other.locator("main h1").first().waitFor();
  await other.waitForTimeout(500);
  await prepare(other);
  await other.addScriptTag({ path: require.resolve("axe-core/axe.min.js") });
  const found = await other.evaluate(async () => (await globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa"] })).violations);
  await context.close();
  if (found.length) throw new Error(`${view}: ${found.map((each) => `${each.id} at ${each.nodes[0].target}`).join("; ")}`);
  holds(`${view} has no WCAG A or AA violation that axe can see`);
}

try {
  await page.goto(url);
  await page.getByLabel("User").fill(user);
  await page.getByLabel("Password").fill("wrong");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").filter({ hasText: /\w/ }).waitFor();
  holds("a wrong password is refused in words");
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.getByText("Every packet is accounted for.").first().waitFor();
  holds("the overview shows the ledger");
  await page.getByText("live", { exact: true }).waitFor();
  holds("live updates are on");
  await page.screenshot({ path: `${room}/overview.png`, fullPage: true });
  await page.getByRole("link", { name: "Devices" }).click();
  await page.locator("td", { hasText: address }).first().waitFor();
  await page.locator("tr", { hasText: address }).first().getByRole("link").first().click();
  await page.getByText("Connections, newest first").waitFor();
  await page.getByRole("button", { name: /Packets of/ }).first().waitFor();
  holds(`the device ${address} has a page with its connections`);
  await page.screenshot({ path: `${room}/device.png`, fullPage: true });
  await page.keyboard.press("Control+k");
  await page.keyboard.type("service:http");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: /Packets of .*:80/ }).first().waitFor();
  holds("a search by keyboard alone finds HTTP connections");
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: /Packets of .*:80/ }).first().click()]);
  await download.saveAs(`${room}/packets.pcapng`);
  holds("packets are downloaded");
  await page.getByRole("link", { name: "Sensors & ledger" }).click();
  await page.getByText("By minute of packet time").waitFor();
  await page.getByRole("link", { name: "OS-sensors" }).click();
  await page.getByRole("region", { name: /^OS-sensor / }).getByText("full packets").waitFor();
  await page.getByRole("button", { name: "Policy of the group default" }).focus();
  await page.keyboard.press("Enter");
  await page.getByLabel("Filter, as for tcpdump").fill("tcp prot 80");
  await page.getByRole("button", { name: "Save" }).press("Enter");
  await page.getByRole("alert").filter({ hasText: "'prot' is no word of a filter" }).waitFor();
  holds("a filter that does not compile is refused in words");
  await page.getByLabel("Filter, as for tcpdump").fill("tcp port 80");
  await page.getByLabel("What is sent").selectOption("metadata");
  await page.getByLabel("At most percent of a core").fill("2.5");
  await accessible("the policy form", "#/agents", async (other) => { await other.getByRole("button", { name: "Policy of the group default" }).click(); await other.getByLabel("What is sent").waitFor(); });
  await page.getByLabel("At most Mbit/s").press("Enter");
  await page.getByRole("region", { name: /^OS-sensor / }).getByText("metadata only; of what matches 'tcp port 80'; at most 2.5 % of a core").waitFor();
  holds("a policy is set on the page, by keyboard, and shown with its agent");
  for (const [view, hash] of [["OS-sensors", "#/agents"]]) await accessible(view, hash);
  for (const [view, hash] of [["overview", "#/home"], ["devices", "#/devices"], ["search", "#/search?q=service:http&table=flows"], ["sensors", "#/sensors"]]) await accessible(view, hash);
  if (wrong.length) throw new Error(wrong.join("\n"));
} catch (error) {
  await page.screenshot({ path: `${room}/failed.png`, fullPage: true }).catch(() => {});
  console.error(error.message, wrong.join("\n"));
  process.exitCode = 1;
} finally {
  await browser.close();
}
