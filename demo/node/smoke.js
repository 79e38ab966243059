// What a person does first in mongosh, on one tenant:
//
//   mongosh --quiet --norc --file smoke.js URI/DATABASE
//
// As erp.mjs it prints one line of JSON per step, the same ones on two fresh
// servers. hello is asked only for what a proxy may not change: who answers
// (a replica set's member, a mongos) is meant to differ.
/* global db, print, show, EJSON, ObjectId, ISODate */

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
step('show tables', () => show('tables').value.map((c) => c.name).sort());
step('show dbs', () => show('dbs').value.map((d) => d.name).filter((n) => n.startsWith('smetasc')));
step('listDatabases', () => {
  const named = (filter, more) => db.adminCommand({ listDatabases: 1, filter, ...more }).databases;
  return [named({ name: /^smetasc/ }, { nameOnly: true }), named({ name: { $in: ['smetasc_shared', 'smetasc_tenant_acme'] }, empty: false }).map((d) => d.name), named({ name: 'smetasc_tenant_acme' }), named({ sizeOnDisk: { $lt: 0 } })];
});
step('listDatabases, a bad filter', () => db.adminCommand({ listDatabases: 1, filter: { name: { $odd: 1 } } }));
step('insert for others', () => db.orders.insertMany(['globex', 'initech'].map((t, n) => ({ _id: at(40 + n), tenantId: t, number: 1, total: 5 }))));
step('itcount of all', () => db.orders.find().itcount());
step('itcount, two at a time', () => db.orders.find({ number: { $gt: 1 } }).batchSize(2).itcount());
step('find all, sorted', () => db.orders.find({}, { number: 1 }).sort({ _id: -1 }).toArray());
step('count', () => [db.orders.countDocuments(), db.orders.estimatedDocumentCount(), db.orders.find().size()]);
step('distinct', () => db.orders.distinct('tenantId').sort());
step('orders.stats', () => {
  const { ok, ns, count, nindexes, sharded } = db.orders.stats();
  return { ok, ns, count, nindexes, sharded };
});
step('stats of the database', () => {
  const { ok, objects, collections, indexes } = db.stats();
  return { ok, db: db.stats().db, objects, collections, indexes };
});
step('validate', () => {
  const { ns, valid, nIndexes, nrecords } = db.orders.validate();
  return { ns, valid, nIndexes, nrecords };
});
step('isCapped', () => db.orders.isCapped());
step('explain', () => {
  const { queryPlanner: plan, command } = db.orders.find({ tenantId, number: 1 }).explain();
  return { namespace: plan.namespace, stage: plan.winningPlan.stage ?? plan.winningPlan.queryPlan.stage, command };
});
step('explain of an aggregate', () => JSON.stringify(db.orders.explain().aggregate([{ $match: { tenantId } }, { $group: { _id: null, n: { $sum: 1 } } }])).includes('smetasc_tenant'));
step('explain of all', () => {
  const plans = [db.orders.find({ number: 1 }).explain(), db.orders.explain('executionStats').count({ number: 1 }), db.orders.explain().aggregate([{ $match: { number: 1 } }])];
  return [plans.map((p) => typeof p.queryPlanner.winningPlan.stage), plans[1].executionStats.nReturned, JSON.stringify(plans).includes('smetasc_tenant')];
});
step('explain of an update', () => db.orders.explain().update({ tenantId }, { $set: { x: 1 } }).queryPlanner.namespace);
step('forEach', () => {
  const seen = [];
  db.orders.find({ tenantId }).sort({ number: 1 }).forEach((o) => seen.push(o.number));
  return seen;
});
step('hasNext, next', () => {
  const c = db.orders.find().sort({ _id: 1 }).batchSize(1);
  return [c.hasNext(), c.next().number, c.next().number, c.close()];
});
step('bulk, the old way', () => {
  const bulk = db.orders.initializeUnorderedBulkOp();
  for (const t of ['acme', 'globex']) {
    bulk.insert({ _id: at(t === 'acme' ? 50 : 51), tenantId: t, number: 50 });
    bulk.find({ tenantId: t, number: 1 }).update({ $inc: { total: 1 } });
  }
  bulk.find({ number: 50 }).delete();
  const { insertedCount, matchedCount, modifiedCount, deletedCount } = bulk.execute();
  return { insertedCount, matchedCount, modifiedCount, deletedCount };
});
step('dropIndex', () => db.orders.dropIndex('tenantId_1_number_1').ok);
step('getIndexes again', () => db.orders.getIndexes());
step('drop', () => [db.tasks.insertMany([{ tenantId, title: 'x' }, { tenantId: 'globex', title: 'x' }]).acknowledged, db.tasks.drop(), db.tasks.drop(), db.getCollectionNames().sort()]);
