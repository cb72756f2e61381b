// client: what the load scripts of bench/ share: words to ask with, one streamed answer with the times of its pieces, percentiles.

export const arg = (name, fallback) => {
  const i = process.argv.indexOf('--' + name);
  return i < 0 ? fallback : process.argv[i + 1];
};

// Between what is measured: for seconds after a process ends, the memory it held goes back to the host of a virtual machine, and whoever runs meanwhile
// is slower (docs/PERFORMANCE.md, "Beside llama.cpp").
export const rest = (seconds = 7) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

let seed = +arg('seed', 1) >>> 0;
export const random = () => ((seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) / 2 ** 32);
const lexicon = 'time year people way day man thing woman life child world school state family student group country problem hand part place case week'.split(' ');
export const words = (n) => Array.from({ length: n }, () => lexicon[(random() * lexicon.length) | 0]).join(' ');

// Streams one answer of at most maxTokens tokens to a conversation (its messages, or one text). onPiece(time, how many so far) at every piece.
// more: further fields of the request. Resolves with {start, times, text, finish, usage, timings}; rejects with a status (and retryAfter) where the server refused.
export async function ask({ url, model, key }, messages, maxTokens, { onPiece = () => {}, signal, more = {} } = {}) {
  const start = performance.now(), times = [];
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST', signal, headers: { 'content-type': 'application/json', ...(key ? { authorization: `Bearer ${key}` } : {}) },
    body: JSON.stringify({ model, stream: true, max_tokens: maxTokens, temperature: 0, ignore_eos: true, stream_options: { include_usage: true },
      messages: typeof messages === 'string' ? [{ role: 'user', content: messages }] : messages, ...more }),
  });
  if (!response.ok) {
    const why = Object.assign(new Error(`${response.status} ${await response.text()}`), { status: response.status, retryAfter: Number(response.headers.get('retry-after')) });
    throw why;
  }
  let buffer = '', usage = null, text = '', finish = null, done = false;
  const decoder = new TextDecoder();
  for await (const bytes of response.body) {
    buffer += decoder.decode(bytes, { stream: true });
    for (let cut; (cut = buffer.indexOf('\n\n')) >= 0; buffer = buffer.slice(cut + 2)) {
      const event = buffer.slice(0, cut);
      done ||= event === 'data: [DONE]';
      if (!event.startsWith('data: {')) continue;
      const data = JSON.parse(event.slice(6));
      if (data.error) throw new Error(JSON.stringify(data.error));
      usage = data.usage ?? usage;
      finish = data.choices?.[0]?.finish_reason ?? finish;
      if (!data.choices?.[0]?.delta?.content) continue;
      text += data.choices[0].delta.content;
      const now = performance.now();
      times.push(now);
      onPiece(now, times.length);
    }
  }
  if (!done || !finish || !usage) throw new Error('the stream was not complete');
  return { start, times, text, finish, usage };
}

export const pick = (list, p) => {
  const sorted = [...list].sort((a, b) => a - b);
  return sorted.length ? Math.round(10 * sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))]) / 10 : null;
};
export const shape = (list) => ({ n: list.length, p50: pick(list, 0.5), p95: pick(list, 0.95), p99: pick(list, 0.99), max: pick(list, 1) });
// Gaps between pieces that lie between two times.
export const gapsOf = (times, from = 0, to = Infinity) => times.slice(1).map((t, i) => [t, t - times[i]]).filter(([t, gap]) => t - gap >= from && t <= to).map(([, gap]) => gap);
