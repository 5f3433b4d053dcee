// Checks pages in Chromium; report-page starts it. Usage: report-page.cjs DIRECTORY PAGE…
const { chromium } = require("playwright-core");
const fs = require("node:fs");
const path = require("node:path");

const [work, ...pages] = process.argv.slice(2);
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"];

async function check(browser, page_name, colorScheme, width) {
    const context = await browser.newContext({ colorScheme, viewport: { width, height: 900 } });
    const page = await context.newPage();
    const trouble = [];
    page.on("console", (message) => trouble.push(`console: ${message.text()}`));
    page.on("pageerror", (error) => trouble.push(`error: ${error}`));
    page.on("request", (request) => {
        if (!/^(file|data):/.test(request.url())) trouble.push(`loads ${request.url()}`);
    });
    await page.goto(`file://${path.join(work, page_name)}.html`);
    for (const details of await page.$$("details")) await details.evaluate((element) => (element.open = true));
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
    if (wide) trouble.push("the page is wider than the window");
    // Every column is visible, except on a telephone.
    const hidden = await page.evaluate(() => [...document.querySelectorAll(".scroll")]
        .filter((box) => box.querySelector("table") && box.scrollWidth > box.clientWidth)
        .map((box) => `${box.getAttribute("aria-label")}: ${box.scrollWidth} > ${box.clientWidth}`));
    if (width >= 800) for (const box of hidden) trouble.push(`columns are hidden: ${box}`);
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run());
    for (const { id, help, nodes } of violations) trouble.push(`axe ${id}: ${help}: ${nodes[0].html.slice(0, 200)}`);
    // The Tab key must move the focus to an element.
    await page.keyboard.press("Tab");
    if (await page.evaluate(() => document.activeElement === document.body)) trouble.push("Tab reaches nothing");
    await page.evaluate(() => (document.activeElement.blur(), window.scrollTo(0, 0)));
    for (const details of await page.$$("details")) await details.evaluate((element) => (element.open = false));
    const picture = path.join(work, `${page_name}-${colorScheme}-${width}`);
    await page.screenshot({ path: `${picture}.png`, fullPage: true });
    // The picture that docs/ shows.
    const clip = { x: 0, y: 0, width, height: 1390 };
    if (width === 1200) await page.screenshot({ path: `${picture}-top.png`, fullPage: true, clip });
    await context.close();
    console.log(`${page_name} ${colorScheme} ${width}: ${trouble.length ? "FAIL" : "ok"}, axe violations: ${violations.length}`);
    for (const line of trouble) console.log(`  ${line}`);
    return trouble.length;
}

(async () => {
    const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args });
    let failures = 0;
    for (const page of pages) {
        for (const scheme of ["light", "dark"]) {
            for (const width of [1200, 1000, 800, 400]) failures += await check(browser, page, scheme, width);
        }
    }
    await browser.close();
    process.exit(failures ? 1 : 0);
})();
