#!/usr/bin/env node
// gaps: what clients of a server feel: first tokens, and every gap between pieces of a stream, the largest too. One JSON line.
//   node bench/gaps.mjs --url http://127.0.0.1:8080 --model NAME [--clients 8] [--requests 4] [--words 200] [--shared 0] [--tokens 64] [--key K]
//   node bench/gaps.mjs ... --long 7000    CLIENTS streams run; then a prompt of so many words arrives. Gaps are those until its first token.
const arg = (name, fallback) => {
  const i = process.argv.indexOf('--' + name);
  return i < 0 ? fallback : process.argv[i + 1];
};
const url = arg('url', 'http://127.0.0.1:8080'), model = arg('model', 'toy-1'), key = arg('key', '');
const clients = +arg('clients', 8), requests = +arg('requests', 4), words = +arg('words', 200), shared = +arg('shared', 0), tokens = +arg('tokens', 64);
const long = +arg('long', 0);
let seed = +arg('seed', 1) >>> 0;
const random = () => ((seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) / 2 ** 32);
const lexicon = 'time year people way day man thing woman life child world school state family student group country problem hand part place case week'.split(' ');
const text = (n) => Array.from({ length: n }, () => lexicon[(random() * lexicon.length) | 0]).join(' ');
const common = text(shared);

// Streams one answer; onPiece(time) at every piece; resolves with the times.
async function ask(n, maxTokens, onPiece = () => {}, signal) {
  const start = performance.now(), times = [];
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST', signal, headers: { 'content-type': 'application/json', ...(key ? { authorization: `Bearer ${key}` } : {}) },
    body: JSON.stringify({ model, stream: true, max_tokens: maxTokens, temperature: 0, ignore_eos: true, stream_options: { include_usage: true },
      messages: [{ role: 'user', content: `${common} ${text(n)}` }] }),
  });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  let buffer = '', usage = null;
  const decoder = new TextDecoder();
  for await (const bytes of response.body) {
    buffer += decoder.decode(bytes, { stream: true });
    for (let cut; (cut = buffer.indexOf('\n\n')) >= 0; buffer = buffer.slice(cut + 2)) {
      const event = buffer.slice(0, cut);
      if (!event.startsWith('data: {')) continue;
      const data = JSON.parse(event.slice(6));
      if (data.error) throw new Error(JSON.stringify(data.error));
      usage = data.usage ?? usage;
      if (!data.choices?.[0]?.delta?.content) continue;
      const now = performance.now();
      times.push(now);
      onPiece(now, times.length);
    }
  }
  return { start, times, usage };
}
const pick = (list, p) => {
  const sorted = [...list].sort((a, b) => a - b);
  return sorted.length ? Math.round(10 * sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))]) / 10 : null;
};
const shape = (list) => ({ n: list.length, p50: pick(list, 0.5), p95: pick(list, 0.95), p99: pick(list, 0.99), max: pick(list, 1) });
const gapsOf = (times, from = 0, to = Infinity) => times.slice(1).map((t, i) => [t, t - times[i]]).filter(([t, gap]) => t - gap >= from && t <= to).map(([, gap]) => gap);

if (long) {
  let begun = 0, all;
  const ready = new Promise((resolve) => (all = resolve));
  const stop = new AbortController();
  const streams = Array.from({ length: clients }, () => {
    const times = [];
    ask(words, 4000, (now, n) => { times.push(now); if (n === 8 && ++begun === clients) all(); }, stop.signal).catch((e) => { if (e.name !== 'AbortError') throw e; });
    return times;
  });
  await ready;
  const got = await ask(long, 4);
  const before = streams.flatMap((t) => gapsOf(t, 0, got.start)), during = streams.flatMap((t) => gapsOf(t, got.start, got.times[0]));
  stop.abort();
  console.log(JSON.stringify({ clients, long_prompt_tokens: got.usage.prompt_tokens, long_first_token_ms: Math.round(got.times[0] - got.start),
    before_ms: shape(before), during_ms: shape(during), both_ms: shape([...before, ...during]), p99_over_median: Math.round(100 * pick([...before, ...during], 0.99) / pick([...before, ...during], 0.5)) / 100,
    p99_over_median_before: Math.round(100 * pick(during, 0.99) / pick(before, 0.5)) / 100 }));
} else {
  const start = performance.now(), done = [];
  let left = clients * requests;
  await Promise.all(Array.from({ length: clients }, async () => { while (left-- > 0) done.push(await ask(words, tokens)); }));
  const seconds = (performance.now() - start) / 1000, out = done.reduce((n, r) => n + r.usage.completion_tokens, 0);
  console.log(JSON.stringify({ clients, requests: done.length, seconds: Math.round(10 * seconds) / 10, output_tok_s: Math.round(10 * out / seconds) / 10,
    prompt_tokens: done[0].usage.prompt_tokens, ttft_ms: shape(done.map((r) => r.times[0] - r.start)), gap_ms: shape(done.flatMap((r) => gapsOf(r.times))) }));
}
process.exit(0);
