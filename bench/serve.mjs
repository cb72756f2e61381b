#!/usr/bin/env node
// serve: what many clients get, as one table of figures beside those that are wanted. Starts its own servers; `peer bench` in the same run says how fast
// the machine is: wanted figures were set where it gave 32.9 tok/s, and are scaled by what it gives now. Where llama.cpp's own server is at hand, loads go to it
// as well, and what is wanted is the ratio to it: one stream says what memory can do, not how fast prompts are read.
//   PEER_DIR=... LOAD=../shared/load/load.mjs node bench/serve.mjs [--rows PATTERN] [--port 21500] [--seconds 120] [--crowd 500] [--json FILE]
// PEER_DIR: an installed peer with bench/q06-Q4_K_M.gguf; without peer bench (--scale S) the factor is S. LOAD: the shared load generator. LLAMA_SERVER: llama.cpp's server.
// --rows: a pattern of rows' names. The crowds and the soak take --seconds each and run only when they are named. --server-flags "...": more flags for every server.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { arg, ask, pick, rest, words } from './client.mjs';

const here = dirname(fileURLToPath(import.meta.url)), root = dirname(here);
const bin = process.env.ALTISERVE_BIN ?? join(root, 'build/altiserve'), peer = process.env.PEER_DIR;
const rival = process.env.LLAMA_SERVER, load = process.env.LOAD ?? join(root, '../shared/load/load.mjs');
const seconds = +arg('seconds', 120), crowd = +arg('crowd', 500), port = +arg('port', 21500), threads = arg('threads', '2');
if (!peer) {
  console.error('bench/serve.mjs needs PEER_DIR, the folder of an installed peer with bench/q06-Q4_K_M.gguf in it');
  process.exit(2);
}
const folder = join(peer, 'bench'), name = 'q06-Q4_K_M', file = join(folder, `${name}.gguf`);
const more = arg('server-flags', '').split(' ').filter(Boolean);

// ---- a server, and what the system says of it

async function serve(flags, models = folder) {
  const child = spawn(bin, ['serve', '--port', String(port), '--models', models, '--threads', threads, '--log-level', 'warn', ...more, ...flags],
    { stdio: ['ignore', 'pipe', 'inherit'] });
  child.ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve(signal ?? code)));
  await new Promise((resolve, reject) => {
    let text = '';
    child.stdout.on('data', (part) => { if (/listening on/.test(text += part)) resolve(); });
    child.ended.then((how) => reject(new Error(`the server ended: ${how}`)));
  });
  const url = `http://127.0.0.1:${port}`, at = { url, model: models === folder ? name : 'toy-1' };
  await ask(at, 'hello', 2); // loads the model
  return { at, child, end: async (signal = 'SIGTERM') => { child.kill(signal); return child.ended; } };
}
async function withServer(flags, use, models) {
  await rest();
  const server = await serve(flags, models);
  try { return await use(server); } finally { await server.end(); }
}
async function withRival(use) {
  await rest();
  const child = spawn(rival, ['-m', file, '--port', String(port), '--threads', threads, '--parallel', '16', '--ctx-size', '16384'], { stdio: 'ignore' });
  const ended = new Promise((resolve) => child.on('exit', resolve)), url = `http://127.0.0.1:${port}`;
  try {
    while (!(await fetch(`${url}/health`).catch(() => ({}))).ok) {
      if (child.exitCode !== null) throw new Error(`${rival} ended: ${child.exitCode}`);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    const at = { url, model: name };
    await ask(at, 'hello', 2);
    return await use({ at });
  } finally {
    child.kill();
    await ended;
  }
}
const rss = (pid) => Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)[1]) / 1024;
// Resident megabytes, once a second, until stop() is called.
function watch(pid) {
  const seen = [rss(pid)], timer = setInterval(() => seen.push(rss(pid)), 1000);
  return () => { clearInterval(timer); return seen; };
}
const median = (list) => pick(list, 0.5);
const json = (command, args) => JSON.parse((spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 26 }).stdout || '{"failed": true}').trim().split('\n').pop());
// The scripts run beside this one, which goes on watching.
const script = (path, args) => new Promise((resolve) => {
  const child = spawn('node', [path, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.on('data', (part) => (text += part));
  child.on('exit', () => resolve(JSON.parse(text.trim().split('\n').pop() || '{}')));
});
const loadArgs = (at, o) => ['--url', at.url, '--model', at.model, ...Object.entries(o).flatMap(([k, v]) => [`--${k}`, String(v)])];
const metric = async (at, line) => Number((await (await fetch(`${at.url}/metrics`)).text()).split('\n').find((l) => l.startsWith(line))?.split(' ').pop() ?? 0);
const benchGen = () => json(join(peer, 'peer'), ['bench', file, '--prompt', '0', '--gen', '64', '--threads', threads]).tg_tok_s;

// ---- rows: each returns figures [what, measured, relation, wanted, unit]; speeds and times wanted are those of the machine of 32.9 tok/s

const scale = { speed: 1 };
const held = (what, value, sign, wanted) => ({ what, value, wanted, sign, good: Number.isFinite(value) && (sign === '>=' ? value >= wanted : value <= wanted) });
const most = (what, value, wanted) => held(what, value, '<=', wanted);
const least = (what, value, wanted) => held(what, value, '>=', wanted);
const within = (what, value, wanted) => most(what, value, wanted / scale.speed);
const atLeast = (what, value, wanted) => least(what, value, wanted * scale.speed);
const told = (what, value) => ({ what, value, good: true });

// One load; speed, first: what is wanted, and what llama.cpp's server had where that was set.
const loaded = (options, { speed, first }) => async () => {
  const run = ({ at }) => script(load, loadArgs(at, options)), r = await withServer([], run), other = rival && await withRival(run);
  const figure = (what, value, theirs, wanted, compare) => {
    if (!rival) return [wanted ? compare(what, value, wanted[0]) : told(what, value)];
    const both = [told(what, value), told('  of llama-server', theirs)];
    if (wanted) both.push((wanted[0] > wanted[1] ? least : most)('  ratio', value / theirs, wanted[0] / wanted[1]));
    return both;
  };
  return [most('errors', r.errors, 0), ...(rival ? [most('errors of llama-server', other.errors, 0)] : []),
    ...figure('output tok/s', r.output_tok_s, other?.output_tok_s, speed, atLeast),
    ...figure('first token ms', r.ttft_ms.p50, other?.ttft_ms.p50, first, within), told('p95', r.ttft_ms.p95),
    ...figure('between tokens ms', r.itl_ms.p50, other?.itl_ms.p50), told('p99', r.itl_ms.p99),
    told('cached of prompt', r.cached_tokens / r.prompt_tokens)];
};
const clients = (n, requests, wanted) => loaded({ concurrency: n, requests, 'prompt-words': 200, 'max-tokens': 64, seed: n }, wanted);
const shared = loaded({ concurrency: 8, requests: 40, 'prompt-words': 20, 'shared-words': 600, 'max-tokens': 16, seed: 3 }, { first: [300, 2599] });

// Without drafts: with them several pieces come at once, and the median of gaps says nothing.
const long = () => withServer(['--speculate', 'off'], async ({ at }) => {
  const r = await script(join(here, 'gaps.mjs'), loadArgs(at, { clients: 7, words: 200, long: 7900 }));
  return [most('p99 / median between tokens', r.p99_over_median, 2.5), told('p99 during / median before', r.p99_over_median_before), told('prompt tokens', r.long_prompt_tokens),
    told('its first token ms', r.long_first_token_ms), told('median before ms', r.before_ms.p50), told('during ms', r.during_ms.p50), told('largest ms', r.during_ms.max)];
});

const gaps = () => withServer([], async ({ at }) => {
  const r = await script(join(here, 'gaps.mjs'), loadArgs(at, { clients: 8, requests: 3, words: 200, tokens: 64 }));
  return [most('errors', r.errors, 0), most('largest gap ms', r.gap_ms.max, 1000), told('output tok/s', r.output_tok_s),
    told('between tokens ms', r.gap_ms.p50), told('p99', r.gap_ms.p99)];
});

// Twenty turns of 300 tokens; every second one is asked three times, with other words at its end, each time beside a bench of the same depth, since speeds swing from minute to
// minute, and some seconds after it. The words of a random model's answer are not cut into the tokens that were drawn, so an answer counts among what is new.
const conversation = () => withServer([], async ({ at }) => {
  const messages = [], over = [], ratios = [];
  let before = 0, first;
  const turn = async () => {
    const asked = [...messages, { role: 'user', content: words(282) }], r = await ask(at, asked, 8), prompt = r.usage.prompt_tokens;
    over.push(prompt - r.usage.prompt_tokens_details.cached_tokens - (prompt - before));
    first = r.times[0] - r.start;
    return { asked: [...asked, { role: 'assistant', content: r.text }], prompt };
  };
  const benched = async (fresh) => {
    const rate = json(bin, ['bench', file, '--prompt', String(fresh), '--gen', '0', '--depth', String(before), '--reps', '1', '--threads', threads, '--json', ...more]).pp_tok_s;
    await rest();
    return 1000 * fresh / rate;
  };
  for (let t = 0; t < 20; t++) {
    let last = await turn();
    if (t % 2) {
      const pairs = [first / await benched(last.prompt - before)];
      const ms = await benched(last.prompt - before); // the other way round
      last = await turn();
      pairs.push(first / ms);
      last = await turn();
      pairs.push(first / await benched(last.prompt - before));
      ratios.push(median(pairs));
    }
    messages.splice(0, messages.length, ...last.asked);
    before = last.prompt;
  }
  return [most('computed beyond what is new, worst turn', Math.max(...over), 31), most('first token / bench, turns 2 to 10', median(ratios.slice(0, 5)), 1.15),
    most('turns 12 to 20', median(ratios.slice(5)), 1.15), told('worst of ten turns', Math.max(...ratios)),
    told('first token ms, turn 20', first), told('tokens', before)];
});

const restart = async () => {
  const dir = mkdtempSync(join(tmpdir(), 'altiserve-serve-'));
  try {
    await rest();
    const flags = ['--cache-dir', dir], text = words(2400), messages = [{ role: 'user', content: text }];
    let server = await serve(flags);
    const first = await ask(server.at, messages, 16);
    const full = Math.floor(first.usage.prompt_tokens / 32), begin = performance.now();
    while (await metric(server.at, 'altiserve_cache_tier_pages_total{tier="disk",event="written"}') < full && performance.now() - begin < 5000) await ask(server.at, 'x', 1);
    const waited = performance.now() - begin;
    await server.end('SIGKILL');
    const t = performance.now();
    server = await serve(flags);
    const up = performance.now() - t;
    messages.push({ role: 'assistant', content: first.text }, { role: 'user', content: words(50) });
    const next = await ask(server.at, messages, 16), cached = next.usage.prompt_tokens_details.cached_tokens;
    const fromDisk = await metric(server.at, `altiserve_prefix_hit_tokens_total{model_name="${name}",tier="disk"}`);
    await server.end();
    return [least('from disk, of the earlier prompt', fromDisk / first.usage.prompt_tokens, 0.95), told('cached', cached),
      told('first token ms', next.times[0] - next.start), told('before, computed', first.times[0] - first.start),
      told('written after the answer, ms', waited), told('start and load ms', up)];
  } finally { rmSync(dir, { recursive: true, force: true }); }
};

// So many clients of toy-1 at once, again and again; with --deterministic each answer is held to that of its prompt asked alone.
const many = (deterministic) => async () => {
  const prompts = Array.from({ length: 60 }, (_, i) => `${i} ${words(5 + 2 * i)}`), field = (i) => ({ seed: i, temperature: i % 2 ? 0.8 : 0 });
  const none = mkdtempSync(join(tmpdir(), 'altiserve-none-'));
  const length = (i) => 16 + (i * 7) % 100, flags = [...(deterministic ? ['--deterministic'] : []), '--memory', '256M'], alone = [];
  try {
    if (deterministic) await withServer([...flags, '--no-prefix-cache'], async ({ at }) => {
      for (let i = 0; i < prompts.length; i++) alone.push((await ask(at, prompts[i], length(i), { more: field(i) })).text);
    }, none);
    return await withServer(flags, async ({ at, child }) => {
      const stop = watch(child.pid), start = performance.now(), errors = [];
      let good = 0, different = 0, refused = 0, tokens = 0;
      await Promise.all(Array.from({ length: crowd }, async (_, c) => {
        for (let k = 0; performance.now() - start < 1000 * seconds; k++) {
          const i = (c * 31 + k * 17) % prompts.length;
          try {
            const r = await ask(at, prompts[i], length(i), { more: field(i) });
            good++;
            tokens += r.usage.completion_tokens;
            different += deterministic && r.text !== alone[i];
          } catch (e) {
            if (e.status !== 429) { errors.push(e.message); continue; }
            refused++;
            await new Promise((r) => setTimeout(r, 1000 * Math.min(e.retryAfter, 3)));
          }
        }
      }));
      const seen = stop(), warm = Math.floor(seen.length / 3), third = Math.floor(seen.length / 3);
      return [most('errors', errors.length, 0), ...(deterministic ? [most('answers unlike the serial run', different, 0)] : []),
        told('answers', good), told('429', refused), told('tok/s', tokens / ((performance.now() - start) / 1000)),
        most('RSS: last third / middle third', median(seen.slice(-third)) / median(seen.slice(warm, 2 * warm)), 1.02),
        told('RSS MB', seen[seen.length - 1]), ...(errors[0] ? [told(errors[0], 1)] : [])];
    }, none);
  } finally { rmSync(none, { recursive: true, force: true }); }
};

const soak = () => withServer(['--memory', '1500M'], async ({ at, child }) => {
  const stop = watch(child.pid);
  const r = await script(join(here, 'gaps.mjs'), loadArgs(at, { clients: 32, words: 200, tokens: 64, seconds }));
  const seen = stop(), third = Math.floor(seen.length / 3);
  return [most('errors', r.errors, 0), told('requests', r.requests), told('output tok/s', r.output_tok_s), told('between tokens ms', r.gap_ms.p50),
    told('p99', r.gap_ms.p99), told('largest', r.gap_ms.max), told('first token ms', r.ttft_ms.p50),
    most('RSS: last third / middle third', median(seen.slice(-third)) / median(seen.slice(third, 2 * third)), 1.02), told('RSS MB', seen[seen.length - 1])];
});

const rows = [
  ['1 client', clients(1, 5, { speed: [42, 23.8], first: [180, 536] })], ['8 clients', clients(8, 24, { speed: [160, 55.7] })],
  ['16 clients', clients(16, 48, { speed: [220, 75.9] })], ['8 clients, 600 shared words', shared],
  ['gaps of 8 clients', gaps], ['long prompt beside 7 streams', long], ['conversation of 20 turns', conversation], ['restart after kill -9', restart],
  ['crowd on toy-1', many(false), true], ['deterministic crowd on toy-1', many(true), true], ['soak of 32 clients', soak, true],
];
const pattern = arg('rows', null), results = [];
scale.speed = +arg('scale', 0) || benchGen() / 32.9;
const commit = execFileSync('git', ['-C', root, 'rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim();
console.log(`peer bench: ${(32.9 * scale.speed).toFixed(1)} tok/s; wanted figures are those for 32.9, scaled by ${scale.speed.toFixed(2)}`
  + `${rival ? ", or ratios to llama.cpp's server" : ""}; ${commit}`);
const short = (x) => (x === undefined || x === null || Number.isNaN(x) ? '?' : Math.abs(x) >= 100 || Number.isInteger(x) ? String(Math.round(x)) : x.toFixed(2));
for (const [row, run, long_] of rows) {
  if (pattern ? !new RegExp(pattern).test(row) : long_) continue;
  const figures = await run();
  results.push({ row, figures });
  console.log(`\n${row}`);
  for (const f of figures) {
    const wanted = f.wanted === undefined ? '' : `   wanted ${f.sign} ${short(f.wanted)}  ${f.good ? 'yes' : 'NO'}`;
    console.log(`  ${f.what.padEnd(42)} ${short(f.value).padStart(9)}${wanted}`);
  }
}
if (arg('json', null)) writeFileSync(arg('json'), JSON.stringify({ date: new Date().toISOString(), scale: scale.speed, results }, null, 1));
process.exit(results.every((r) => r.figures.every((f) => f.good)) ? 0 : 1);
