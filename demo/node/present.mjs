// An application's first minute: writes, reads in batches, a session, a
// transaction, then nothing but what its driver does by itself.
//
//   node present.mjs URI NAME IDLE_MS
//
// NAME is in all of its ids, so that several may run at once on one database.
// It prints one line of JSON per step; NAME is in none of them.
import { MongoClient } from 'mongodb';
import { setTimeout as sleep } from 'node:timers/promises';

const [uri, name, idle] = process.argv.slice(2);
const client = new MongoClient(uri, { serverSelectionTimeoutMS: 10_000 });
const db = client.db('smetasc_shared');
const [orders, tasks] = [db.collection('orders'), db.collection('tasks')];
const mine = { tenantId: 'acme', by: name };
const id = (n) => `${name}-${n}`;
const order = (n) => ({ _id: id(n), ...mine, number: id(n), n, text: 'the same again '.repeat(40) });

const step = async (op, work) => {
  let fact;
  try {
    fact = { result: await work() };
  } catch (err) {
    fact = { error: { code: err.code, message: err.message } };
  }
  console.log(JSON.stringify({ op, ...fact }).replaceAll(name, 'NAME'));
};
const numbers = (filter, options = {}) => orders.find(filter, options).sort({ n: 1 }).map((d) => d.n).toArray();

await step('insert', async () => (await orders.insertMany(Array.from({ length: 30 }, (_, n) => order(n)))).insertedCount);
await step('find in batches', () => numbers(mine, { batchSize: 7 }));
await step('update', async () => (await orders.updateOne({ ...mine, n: 1 }, { $set: { seen: true } })).modifiedCount);
await step('find and update', async () => (await orders.findOneAndUpdate({ _id: id(2) }, { $inc: { n: 100 } }, { returnDocument: 'after' })).n);
await step('duplicate', async () => (await orders.insertOne({ ...order(3) })).acknowledged);
await step('session', () =>
  client.withSession({ causalConsistency: true }, async (session) => {
    await orders.insertOne(order(40), { session });
    return numbers({ ...mine, n: { $gte: 40 } }, { session });
  }),
);
await step('transaction', () =>
  client.withSession((session) =>
    session.withTransaction(async () => {
      await orders.updateOne({ ...mine, n: 40 }, { $set: { paid: true } }, { session });
      await tasks.insertOne({ _id: id(1), ...mine }, { session });
      return numbers({ ...mine, paid: true }, { session });
    }),
  ),
);
await step('aborted transaction', () =>
  client.withSession(async (session) => {
    session.startTransaction();
    await orders.deleteMany(mine, { session });
    await session.abortTransaction();
    return [await orders.countDocuments(mine), await tasks.countDocuments(mine)];
  }),
);
await sleep(Number(idle));
await step('after a while', () => numbers({ ...mine, n: { $gte: 40 } }));
await client.close();
