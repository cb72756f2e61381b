#!/usr/bin/env node
// gaps: what clients of a server feel: first tokens, and every gap between pieces of a stream, the largest too. One JSON line.
//   node bench/gaps.mjs --url http://127.0.0.1:8080 --model NAME [--clients 8] [--requests 4] [--words 200] [--shared 0] [--tokens 64] [--key K]
//   node bench/gaps.mjs ... --seconds 120  CLIENTS ask again and again for so long, with words and tokens between a quarter and all of what is said, some of them sampled
//   node bench/gaps.mjs ... --long 7000    CLIENTS streams run; then a prompt of so many words arrives. Gaps are those until its first token.
import { arg, ask, gapsOf, pick, random, shape, words } from './client.mjs';
const server = { url: arg('url', 'http://127.0.0.1:8080'), model: arg('model', 'toy-1'), key: arg('key', '') };
const clients = +arg('clients', 8), requests = +arg('requests', 4), length = +arg('words', 200), tokens = +arg('tokens', 64);
const long = +arg('long', 0), limit = +arg('seconds', 0);
const common = words(+arg('shared', 0));
const prompt = (n) => `${common} ${words(n)}`.trim();
const some = (n) => Math.ceil(n * (0.25 + 0.75 * random()));

if (long) {
  let begun = 0, all;
  const ready = new Promise((resolve) => (all = resolve));
  const stop = new AbortController();
  const streams = Array.from({ length: clients }, () => {
    const times = [];
    ask(server, prompt(length), 4000, { onPiece: (now, n) => { times.push(now); if (n === 8 && ++begun === clients) all(); }, signal: stop.signal })
      .catch((e) => { if (e.name !== 'AbortError') throw e; });
    return times;
  });
  await ready;
  const got = await ask(server, prompt(long), 4);
  const before = streams.flatMap((t) => gapsOf(t, 0, got.start)), during = streams.flatMap((t) => gapsOf(t, got.start, got.times[0]));
  stop.abort();
  const both = [...before, ...during];
  console.log(JSON.stringify({ clients, long_prompt_tokens: got.usage.prompt_tokens, long_first_token_ms: Math.round(got.times[0] - got.start),
    before_ms: shape(before), during_ms: shape(during), both_ms: shape(both), p99_over_median: Math.round(100 * pick(both, 0.99) / pick(both, 0.5)) / 100,
    p99_over_median_before: Math.round(100 * pick(during, 0.99) / pick(before, 0.5)) / 100 }));
} else {
  const start = performance.now(), done = [], errors = [];
  let left = clients * requests;
  const one = limit ? () => ask(server, prompt(some(length)), some(tokens), { more: random() < 0.5 ? { temperature: 0.8 } : {} }) : () => ask(server, prompt(length), tokens);
  const goes = limit ? () => performance.now() - start < 1000 * limit : () => left-- > 0;
  await Promise.all(Array.from({ length: clients }, async () => { while (goes()) await one().then((r) => done.push(r), (e) => errors.push(e.message)); }));
  const seconds = (performance.now() - start) / 1000, out = done.reduce((n, r) => n + r.usage.completion_tokens, 0);
  console.log(JSON.stringify({ clients, requests: done.length, errors: errors.length, first_error: errors[0], seconds: Math.round(10 * seconds) / 10,
    output_tok_s: Math.round(10 * out / seconds) / 10, prompt_tokens: done[0]?.usage.prompt_tokens,
    ttft_ms: shape(done.filter((r) => r.times.length).map((r) => r.times[0] - r.start)), gap_ms: shape(done.flatMap((r) => gapsOf(r.times))) }));
  process.exit(errors.length ? 1 : 0);
}
process.exit(0);
