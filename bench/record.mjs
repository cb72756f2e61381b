#!/usr/bin/env node
// record: arrivals and steps of a real server, for the simulation in tests/engine/test_policy.c. Asks for --seconds in an open loop (people do not wait for each
// other): turns of conversations that grow, short questions, now and then a long document, in calm and busy spells; then writes what /debug/trace has.
//   node bench/record.mjs --url http://127.0.0.1:8080 --model NAME [--rate 1.5] [--seconds 60] [--note "where"] > tests/engine/trace.txt
// Lines: step STREAMS ROWS PAIRS KEYS DRAFTS MICROSECONDS, as pol_step has them; request ARRIVED_MS PROMPT CACHED GENERATED, in order of arrival.
import { arg, ask, random, words } from './client.mjs';
const server = { url: arg('url', 'http://127.0.0.1:8080'), model: arg('model', 'toy-1') };
const seconds = +arg('seconds', 60), rate = +arg('rate', 1.5);
const talks = Array.from({ length: 12 }, () => ({ messages: [], busy: false }));
const between = (low, high) => low + Math.floor(random() * (high - low + 1));

async function turn(talk) {
  talk.busy = true;
  if (talk.messages.length > 16) talk.messages = [];
  talk.messages.push({ role: 'user', content: words(between(10, 120)) });
  const answer = await ask(server, talk.messages, between(8, 80));
  talk.messages.push({ role: 'assistant', content: answer.text });
  talk.busy = false;
}
function one() {
  const free = talks.filter((t) => !t.busy), kind = random();
  if (kind < 0.6 && free.length) return turn(free[Math.floor(random() * free.length)]);
  if (kind < 0.96) return ask(server, words(between(5, 60)), between(4, 120));
  return ask(server, words(between(800, 2000)), between(40, 100));
}
const open = [], errors = [], begin = performance.now();
for (let spell = rate, until = 0; performance.now() - begin < 1000 * seconds;) {
  if (performance.now() - begin > until) {
    spell = rate * (random() < 0.5 ? 0.5 : 1.6);
    until += 1000 * between(4, 10);
  }
  open.push(one().catch((e) => errors.push(e.message)));
  await new Promise((r) => setTimeout(r, (-1000 * Math.log(1 - random())) / spell));
}
await Promise.all(open);
const { traceEvents } = await (await fetch(`${server.url}/debug/trace`)).json();
const steps = traceEvents.filter((e) => e.ph === 'X' && e.name === 'step');
const requests = traceEvents.filter((e) => e.ph === 'b' && e.name === 'request').sort((a, b) => a.ts - b.ts);
const zero = requests[0].ts;
console.log(`# Recorded by bench/record.mjs: ${requests.length} requests, ${steps.length} steps${arg('note', '') && ', ' + arg('note', '')}.`);
console.log('# step STREAMS ROWS PAIRS KEYS DRAFTS MICROSECONDS | request ARRIVED_MS PROMPT CACHED GENERATED');
for (const s of steps) console.log(['step', s.args.streams, s.args.prompt_rows, s.args.pairs, s.args.keys, s.args.drafts, s.dur].join(' '));
for (const r of requests) console.log(['request', Math.round((r.ts - zero) / 1000), r.args.prompt, r.args.cached, r.args.generated].join(' '));
if (errors.length) console.error(errors[0]);
process.exit(errors.length ? 1 : 0);
