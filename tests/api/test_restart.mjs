// The whole server with --cache-dir: killed with SIGKILL at once after an answer, and in the middle of one, its successor goes on from disk with the same text.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const dir = mkdtempSync(join(tmpdir(), 'altiserve-restart-'));
let child;
async function serve(...flags) {
  child = spawn(process.env.ALTISERVE_BIN, ['serve', '--port', '0', '--models', dir, '--context', '2048', '--deterministic', '--log-level', 'error', ...flags],
    { stdio: ['ignore', 'pipe', 'inherit'] });
  child.ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve(signal ?? code)));
  let text = '';
  return new Promise((resolve, reject) => {
    child.stdout.on('data', (part) => {
      const found = (text += part).match(/listening on (\S+)/);
      if (found) resolve(found[1]);
    });
    child.ended.then((how) => reject(new Error(`the server ended: ${how}`)));
  });
}
const kill = async (signal = 'SIGKILL') => { child.kill(signal); return child.ended; };
const body = (prompt, more = {}) => ({ method: 'POST', body: JSON.stringify({ model: 'toy-1', prompt, max_tokens: 40, temperature: 0.7, seed: 3, ignore_eos: true, ...more }) });
async function ask(url, prompt, more) {
  const response = await fetch(`${url}/v1/completions`, body(prompt, more));
  assert.equal(response.status, 200);
  return response.json();
}
const metric = async (url, line) => Number((await (await fetch(`${url}/metrics`)).text()).split('\n').find((l) => l.startsWith(line))?.split(' ').pop() ?? 0);
// Pages are written within a second of filling: asks until they are (the loop ends with the test's own limit otherwise).
async function written(url, pages) {
  for (let i = 0; i < 600; i++) {
    const n = await metric(url, 'altiserve_cache_tier_pages_total{tier="disk",event="written"}');
    if (n >= pages) return;
    await ask(url, 'x', { max_tokens: 1 }); // numbers are brought up to date as requests end
    await new Promise((r) => setTimeout(r, 20));
  }
  assert.fail('pages were not written');
}

try {
  const prompt = 'Tell me about the sea, the hills, seven ships and a lighthouse keeper. '.repeat(40);
  const cache = join(dir, 'cache');
  // Without tiers: what every answer must be.
  let url = await serve('--no-prefix-cache');
  const plain = await ask(url, prompt);
  const tokens = plain.usage.prompt_tokens;
  assert.ok(tokens > 500, `${tokens}`);
  const next = prompt + plain.choices[0].text + ' And then';
  const plainNext = await ask(url, next);
  await kill('SIGTERM');

  url = await serve('--cache-dir', cache);
  const first = await ask(url, prompt);
  assert.equal(first.choices[0].text, plain.choices[0].text);
  assert.equal(first.usage.prompt_tokens_details.cached_tokens, 0);
  await written(url, Math.floor(tokens / 32));
  assert.equal(await kill(), 'SIGKILL');

  // The next turn of the conversation.
  url = await serve('--cache-dir', cache);
  const again = await ask(url, next);
  assert.equal(again.choices[0].text, plainNext.choices[0].text);
  const { cached_tokens: cached } = again.usage.prompt_tokens_details;
  assert.ok(cached >= 0.95 * tokens, `${cached} of ${tokens}`);
  assert.ok(await metric(url, 'altiserve_prefix_hit_tokens_total{model_name="toy-1",tier="disk"}') >= cached);
  await kill();

  // Killed in the middle, several times, while pages are being written.
  for (let i = 0; i < 4; i++) {
    url = await serve('--cache-dir', cache, '--cache-size', '2M');
    const response = await fetch(`${url}/v1/completions`, body(`${i} ${prompt}`, { stream: true, max_tokens: 200 }));
    const reader = response.body.getReader();
    for (let k = 0; k < 1 + i; k++) await reader.read();
    await kill();
    await reader.read().catch(() => {});
  }
  url = await serve('--cache-dir', cache, '--host-cache', '1M');
  assert.equal((await ask(url, prompt)).choices[0].text, plain.choices[0].text);
  assert.equal((await ask(url, next)).choices[0].text, plainNext.choices[0].text);
  assert.equal(await kill('SIGTERM'), 0);
} finally {
  child?.kill('SIGKILL');
  rmSync(dir, { recursive: true, force: true });
}
