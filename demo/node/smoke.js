// What a person does first in mongosh, on one tenant:
//
//   mongosh --quiet --norc --file smoke.js URI/DATABASE
//
// As erp.mjs it prints one line of JSON per step, the same ones on two fresh
// servers. hello is asked only for what a proxy may not change: who answers
// (a replica set's member, a mongos) is meant to differ.
/* global db, print, EJSON, ObjectId, ISODate */

const tenantId = 'acme';
const at = (n) => ObjectId('65b0000000000000000000' + n.toString(16).padStart(2, '0'));
let line = 0;
const step = (op, work) => {
  let fact;
  try {
    fact = { result: work() };
  } catch (err) {
    fact = { error: { name: err.name, code: err.code, codeName: err.codeName, message: err.message } };
  }
  print(EJSON.stringify({ n: ++line, op, ...fact }));
};

step('hello', () => {
  const { ok, isWritablePrimary, readOnly, maxBsonObjectSize, maxWriteBatchSize } = db.hello();
  return { ok, isWritablePrimary, readOnly, maxBsonObjectSize, maxWriteBatchSize };
});
step('ping', () => db.runCommand({ ping: 1 }).ok);
step('current database', () => db.getName());
step('createIndex', () => db.orders.createIndex({ tenantId: 1, number: 1 }, { unique: true }));
step('insertOne', () => db.orders.insertOne({ _id: at(1), tenantId, number: 1, total: NumberInt(10), placedAt: ISODate('2024-01-01') }));
step('insertMany', () => db.orders.insertMany([2, 3, 4, 5].map((n) => ({ _id: at(n), tenantId, number: n, total: n * 10, tags: ['a', 'b'] }))));
step('insert a duplicate', () => db.orders.insertOne({ _id: at(9), tenantId, number: 1 }));
step('find', () => db.orders.find({ tenantId, total: { $gt: 20 } }).sort({ number: -1 }).toArray());
step('find in batches', () => db.orders.find({ tenantId }, { number: 1 }).sort({ number: 1 }).batchSize(2).toArray());
step('findOne by _id', () => db.orders.findOne({ _id: at(1) }));
step('count', () => db.orders.countDocuments({ tenantId }));
step('updateOne by _id', () => db.orders.updateOne({ _id: at(2) }, { $set: { total: 99 } }));
step('updateMany', () => db.orders.updateMany({ tenantId }, { $set: { seen: true } }));
step('aggregate', () => db.orders.aggregate([{ $match: { tenantId } }, { $group: { _id: '$tenantId', total: { $sum: '$total' }, orders: { $sum: 1 } } }]).toArray());
step('deleteOne', () => db.orders.deleteOne({ tenantId, number: 5 }));
step('platform', () => db.users.insertOne({ _id: at(20), tenantId, name: 'somebody' }));
step('transaction', () => {
  const session = db.getMongo().startSession();
  const orders = session.getDatabase(db.getName()).orders;
  session.withTransaction(() => {
    orders.insertOne({ _id: at(30), tenantId, number: 30 });
    orders.updateOne({ tenantId, number: 1 }, { $inc: { total: 1 } });
  });
  session.endSession();
  return db.orders.find({ tenantId, number: { $in: [1, 30] } }).sort({ number: 1 }).toArray();
});
step('getIndexes', () => db.orders.getIndexes());
step('show collections', () => db.getCollectionNames().sort());
