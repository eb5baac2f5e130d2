// ioredis does real work against Holdfast: what an application calls, with assertions.
// Prints every failure and, last, `N passed, M failed`; exits with 1 if one failed.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { once } from 'node:events';
import Redis from 'ioredis';
import { Server } from './server.mjs';

const checks = {
  async 'commands of every type'(r) {
    assert.equal(await r.set('k', 'v', 'EX', 100, 'NX'), 'OK');
    assert.equal(await r.set('k', 'w', 'NX'), null);
    assert.equal(await r.set('k', 'w', 'GET'), 'v');
    assert.deepEqual(await r.mget('k', 'none'), ['w', null]);
    assert.deepEqual(await r.getBuffer('k'), Buffer.from('w'));
    assert.equal(await r.incrby('n', '9007199254740993'), 9007199254740992);
    assert.equal(await r.get('n'), '9007199254740993');
    await r.hset('h', { name: 'ada', n: 1 });
    assert.deepEqual(await r.hgetall('h'), { name: 'ada', n: '1' });
    assert.equal(await r.rpush('l', 1, 2, 3), 3);
    assert.deepEqual(await r.lrange('l', 0, -1), ['1', '2', '3']);
    assert.equal(await r.sadd('s', ['a', 'b']), 2);
    assert.deepEqual((await r.smembers('s')).sort(), ['a', 'b']);
    assert.equal(await r.zadd('z', 1.5, 'x', 2, 'y'), 2);
    assert.deepEqual(await r.zrange('z', 0, -1, 'WITHSCORES'), ['x', '1.5', 'y', '2']);
    await assert.rejects(r.lpush('k', 1), /^ReplyError: WRONGTYPE/);
    await assert.rejects(r.call('NONSENSE', 'a'), /unknown command 'NONSENSE'/);
    const large = Buffer.alloc(2_000_000, 'x');
    await r.set('large', large);
    assert.ok(large.equals(await r.getBuffer('large')));
  },

  async 'pipelines keep their order'(r) {
    const pipeline = r.pipeline();
    for (let n = 0; n < 5_000; n++) pipeline.rpush('l', n);
    const replies = await pipeline.exec();
    assert.ok(replies.every(([error, len], at) => error === null && len === at + 1));
    const mixed = await r.pipeline().set('a', 'x').incr('a').get('a').exec();
    assert.deepEqual(mixed.map(([error]) => error !== null), [false, true, false]);
    assert.equal(mixed[2][1], 'x');
  },

  async 'transactions are all or nothing'(r, server) {
    assert.deepEqual(await r.multi().set('a', 1).incr('a').get('a').exec(), [[null, 'OK'], [null, 2], [null, '2']]);
    await assert.rejects(r.multi().set('a', 9).call('NONSENSE').exec(), /EXECABORT/);
    assert.equal(await r.get('a'), '2');
    const other = new Redis(server.port, { lazyConnect: false });
    await r.watch('a');
    await other.incr('a');
    assert.equal(await r.multi().set('a', 9).exec(), null);
    assert.equal(await r.get('a'), '3');
    await r.watch('a');
    assert.deepEqual(await r.multi().incr('a').exec(), [[null, 4]]);
    await other.quit();
  },

  async 'everything goes over TLS'(plain, server) {
    const r = new Redis(server.tlsPort, { tls: { ca: server.ca } });
    const large = Buffer.alloc(3_000_000, 'x');
    await r.set('large', large);
    assert.ok(large.equals(await r.getBuffer('large')));
    const pipeline = r.pipeline();
    for (let n = 0; n < 3_000; n++) pipeline.incr('n');
    assert.equal((await pipeline.exec()).at(-1)[1], 3_000);
    assert.equal(await plain.get('n'), '3000');
    assert.equal(await r.quit(), 'OK');
    const stranger = new Redis(server.tlsPort, { tls: {}, retryStrategy: null });
    const [error] = await once(stranger, 'error');
    assert.match(error.code ?? error.message, /SELF_SIGNED|UNABLE_TO_VERIFY/);
    stranger.disconnect();
  },

  async 'automatic pipelining answers everyone'(_, server) {
    const r = new Redis(server.port, { enableAutoPipelining: true });
    const sums = await Promise.all(Array.from({ length: 3_000 }, () => r.incr('n')));
    assert.deepEqual(sums.sort((a, b) => a - b), Array.from({ length: 3_000 }, (_, at) => at + 1));
    await Promise.all(Array.from({ length: 500 }, (_, n) => r.hset('h', `f${n}`, n)));
    assert.equal(await r.hlen('h'), 500);
    await r.quit();
  },

  async 'scan streams find everything'(r) {
    const pipeline = r.pipeline();
    for (let n = 0; n < 2_000; n++) pipeline.set(`user:${n}`, n).sadd('set', n).hset('hash', n, n).zadd('zset', n, n);
    await pipeline.exec();
    const gather = async (stream) => {
      const found = [];
      stream.on('data', (step) => found.push(...step));
      await once(stream, 'end');
      return found;
    };
    assert.equal(new Set(await gather(r.scanStream({ match: 'user:*', count: 100 }))).size, 2_000);
    assert.equal(new Set(await gather(r.sscanStream('set', { count: 100 }))).size, 2_000);
    assert.equal((await gather(r.hscanStream('hash', { match: '1*' }))).length, 2 * 1_111);
    assert.equal(new Set(await gather(r.zscanStream('zset'))).size, 2_000);
  },

  async 'names and databases'(_, server) {
    const r = new Redis(server.port, { db: 2, connectionName: 'shop' });
    await r.set('only-here', 1);
    assert.equal(await r.client('GETNAME'), 'shop');
    await r.select(0);
    assert.equal(await r.exists('only-here'), 0);
    assert.match(await r.info('server'), /redis_version:7\./);
    assert.equal(r.status, 'ready');
    await r.quit();
  },

  async 'a client outlives a restart and a crash'(_, server) {
    const r = new Redis(server.port, { retryStrategy: () => 50, maxRetriesPerRequest: null });
    // While nobody listens, attempts to connect fail, which is expected.
    r.on('error', () => {});
    await r.set('kept', 'v');
    for (const signal of ['SIGTERM', 'SIGKILL']) {
      const closed = once(r, 'close');
      await server.end(signal);
      await closed;
      // Sent while nobody listens: queued, and answered when the server is back.
      const reply = r.get('kept');
      const rounds = r.incr('rounds');
      await server.start();
      assert.equal(await reply, 'v');
      assert.ok((await rounds) >= 1);
    }
    assert.equal(await r.get('rounds'), '2');
    await r.quit();
  },
};

async function main() {
  const server = new Server();
  await server.start();
  let passed = 0;
  let failed = 0;
  const count = async (name, run) => {
    try {
      await run();
      passed += 1;
    } catch (error) {
      failed += 1;
      console.error(`ioredis, ${name}:`, error);
    }
  };
  for (const [name, run] of Object.entries(checks)) {
    await count(name, async () => {
      const r = new Redis(server.port);
      // While the server restarts this one cannot connect, which is expected.
      r.on('error', () => {});
      try {
        await r.flushall();
        await run(r, server);
      } finally {
        r.disconnect();
      }
    });
  }
  await count('the server has no complaints', () => {
    assert.deepEqual(server.told().split('\n').filter((line) => / WARN | ERROR /.test(line)), []);
  });
  await server.close();
  const installed = new URL('./node_modules/ioredis/package.json', import.meta.url);
  const { version } = JSON.parse(readFileSync(installed, 'utf8'));
  console.log(`ioredis ${version}: ${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

await main();
