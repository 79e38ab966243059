// Change streams at every level with Mongoose: Model.watch(), connection.watch()
// and client.watch(), by events as applications listen to them.
//
//   node watch.mjs URI DATABASE
//
// Prints what each stream tells, without what differs from run to run.

import mongoose from 'mongoose';

const [uri, dbName] = process.argv.slice(2);
const { EJSON } = mongoose.mongo.BSON;
const { Schema } = mongoose;

const connection = await mongoose.createConnection(uri, { dbName, autoIndex: false, autoCreate: false }).asPromise();
const schema = new Schema({ _id: Number, tenantId: String, qty: Number }, { versionKey: false });
const Order = connection.model('Order', schema, 'orders');
const Item = connection.model('Item', schema, 'order_items');
const User = connection.model('User', schema, 'users');
for (const M of [Order, Item, User]) await connection.createCollection(M.collection.collectionName);

const options = { maxAwaitTimeMS: 1000 };
const mine = [{ $match: { 'ns.db': dbName } }];
const streams = {
  collection: [Order.watch([], options), (e) => e.documentKey._id === 99],
  platform: [User.watch([], options), (e) => e.documentKey._id === 99],
  database: [connection.watch([], options), (e) => e.documentKey._id === 99 && e.ns.coll === 'orders'],
  cluster: [connection.getClient().watch(mine, options), (e) => e.documentKey._id === 99 && e.ns.coll === 'orders'],
};
const heard = {};
const over = Object.entries(streams).map(([name, [stream, last]]) => new Promise((done, fail) => {
  heard[name] = [];
  stream.on('change', (event) => {
    heard[name].push(event);
    if (last(event)) done();
  });
  stream.on('error', fail);
}));
// A stream is opened by its first listener; what comes before is not heard.
await Promise.all(Object.values(streams).map(([s]) => opened(s)));

async function opened(stream) {
  for (let i = 0; i < 1000 && !stream.resumeToken && !stream.driverChangeStream?.resumeToken; i++) await new Promise((r) => setTimeout(r, 10));
}

for (const [i, tenantId] of ['acme', 'globex', 'acme', 'initech'].entries()) {
  const order = await Order.create({ _id: i, tenantId, qty: 1 });
  await Item.create({ _id: i, tenantId });
  await User.create({ _id: i, tenantId });
  order.qty = 2;
  await order.save();
  await Item.updateOne({ _id: i }, { $inc: { qty: 1 } });
  await Order.deleteOne({ _id: i });
}
await User.create({ _id: 99, tenantId: 'acme' });
await Order.create({ _id: 99, tenantId: 'globex' });
await Promise.all(over);
for (const [name, events] of Object.entries(heard)) {
  for (const { _id, ...event } of events) {
    if (Object.keys(_id).join() !== '_data' || typeof _id._data !== 'string') console.log('a strange token', _id);
    console.log(name, EJSON.stringify({ ...event, clusterTime: 'time', wallTime: 'time' }, { relaxed: true }));
  }
  await streams[name][0].close();
}
await connection.close();
