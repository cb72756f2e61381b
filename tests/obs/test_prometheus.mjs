// A real Prometheus scrapes a server with toy-1; promtool finds nothing in /metrics but the colons of borrowed names, and every query of the
// dashboard (deploy/grafana/altiserve.json) returns data. Skipped, with a message, where Debian's package prometheus is not installed; with NEEDS_PROMETHEUS that is a failure.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

if (spawnSync('promtool', ['--version']).error || spawnSync('prometheus', ['--version']).error) {
  console.log(`${process.env.NEEDS_PROMETHEUS ? 'failed' : 'skipped'}: prometheus and promtool are not installed (tools/setup check installs them)`);
  process.exit(process.env.NEEDS_PROMETHEUS ? 1 : 0);
}
const dir = mkdtempSync(join(tmpdir(), 'altiserve-prometheus-')), children = [];
const start = (...command) => {
  const child = spawn(command[0], command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] });
  children.push(child);
  child.log = '';
  child.stderr.on('data', (part) => (child.log += part));
  child.stdout.on('data', (part) => (child.log += part));
  return child;
};
// Polls until the condition holds; the deadline is far beyond what any machine needs.
async function until(what, condition) {
  for (const end = Date.now() + 120000; !(await condition());) {
    assert.ok(Date.now() < end, `never: ${what()}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
const freePort = () => new Promise((resolve) => {
  const server = net.createServer().listen(0, '127.0.0.1', () => { const { port } = server.address(); server.close(() => resolve(port)); });
});

async function main() {
  const server = start(process.env.ALTISERVE_BIN, 'serve', '--port', '0', '--models', dir, '--log-level', 'error');
  await until(() => `the server listens: ${server.log}`, () => /listening on \S+/.test(server.log));
  const url = server.log.match(/listening on (\S+)/)[1];
  const prompt = 'Once upon a time there was a server that kept every page it had read, and told nobody. '.repeat(2);
  const ask = (n) => Promise.all(Array.from({ length: n }, async (_, i) => (await fetch(`${url}/v1/completions`, { method: 'POST',
    body: JSON.stringify({ prompt: `${prompt}${i}`, max_tokens: 12, ignore_eos: true }) })).text()));
  await ask(3);

  const lint = spawnSync('promtool', ['check', 'metrics'], { input: await (await fetch(`${url}/metrics`)).text(), encoding: 'utf8' });
  const found = (lint.stdout + lint.stderr).split('\n').filter((line) => line && !/^(vllm|llamacpp):\S+ metric names should not contain ':'$/.test(line));
  assert.deepEqual(found, []);
  assert.match(lint.stdout + lint.stderr, /vllm:/); // it did look

  const port = await freePort(), config = join(dir, 'prometheus.yml');
  writeFileSync(config, JSON.stringify({ global: { scrape_interval: '200ms' }, scrape_configs: [{ job_name: 'altiserve', static_configs: [{ targets: [new URL(url).host] }] }] }));
  const prometheus = start('prometheus', `--config.file=${config}`, `--storage.tsdb.path=${join(dir, 'data')}`, `--web.listen-address=127.0.0.1:${port}`, '--log.level=warn');
  const query = async (text) => {
    const response = await fetch(`http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(text)}`).catch(() => null);
    const answer = response && await response.json().catch(() => null);
    if (answer?.status === 'error') assert.fail(`${text}: ${answer.error}`);
    return answer?.data?.result ?? [];
  };
  await until(() => `it is scraped: ${prometheus.log}`, async () => (await query('up == 1')).length === 1);

  const panels = JSON.parse(readFileSync(join(process.env.SOURCE_DIR, 'deploy/grafana/altiserve.json'))).panels;
  const queries = panels.flatMap((p) => p.targets.map((t) => t.expr.replaceAll('$model', '.*').replaceAll('$__rate_interval', '1m')));
  assert.ok(queries.length > 30);
  const open = new Set(queries);
  await until(() => `data for ${[...open].join('\n')}`, async () => {
    await ask(2); // rates want growing counters
    for (const text of open)
      if ((await query(text)).some((r) => Number.isFinite(Number(r.value[1])))) open.delete(text);
    return !open.size;
  });
  console.log(`${queries.length} queries of the dashboard return data`);
}

try {
  await main();
} finally {
  await Promise.all(children.map((child) => new Promise((resolve) => { child.on('exit', resolve); if (child.exitCode !== null || !child.kill('SIGKILL')) resolve(); })));
  rmSync(dir, { recursive: true, force: true });
}
