// An ERP's day over all tenants: reports, nightly jobs, queues, batches. Most
// of it names no tenant, as code written for one shared database does not.

import mongoose from 'mongoose';

import { Contract, Employee, Entry, Invoice, Job, Letter, Order, OrderItem, Paper, Project, Stock, Task, Transaction, User, counts, day as date, id, step, tenants } from './ground.mjs';

const byId = (a, b) => (a._id.toString() < b._id.toString() ? -1 : 1);
const each = (make) => tenants.flatMap(make);

async function fill() {
  await step('jobs of all tenants in one insertMany', () => Job.insertMany(each((t, i) => [1, 2, 3, 4].map((n) => ({ _id: id(t, 'job', n), tenantId: t, kind: n % 2 ? 'mail' : 'print', priority: 10 * n + i })))));
  await step('stock of all tenants', () => Stock.insertMany(each((t) => [1, 2, 3].map((n) => ({ _id: id(t, 'stock', n), tenantId: t, sku: `S${n}`, qty: 10 * n, bins: [`b${n}`] })))));
  await step('papers of two kinds', async () => [await Contract.insertMany(each((t, i) => ({ _id: id(t, 'paper', 1), tenantId: t, title: 'Lease', partner: `P${i}`, until: date(365 + i) }))), await Letter.create(each((t, i) => ({ _id: id(t, 'paper', 2), tenantId: t, title: 'Dear', to: `T${i}`, pages: i })), { ordered: true })]);
}

async function reports() {
  await step('report: orders by status', () => Order.aggregate([{ $group: { _id: '$status', orders: { $sum: 1 }, total: { $sum: '$total' }, avg: { $avg: '$total' }, last: { $max: '$placedAt' }, first: { $min: '$placedAt' } } }, { $sort: { _id: 1 } }]));
  await step('report: turnover by tenant', () => Order.aggregate([{ $match: { status: { $in: ['paid', 'closed'] } } }, { $group: { _id: '$tenantId', total: { $sum: '$total' } } }, { $sort: { total: -1, _id: 1 } }]));
  await step('report: by tenant and city', () => Order.aggregate([{ $group: { _id: { tenant: '$tenantId', city: '$customer.address.city' }, n: { $sum: 1 } } }, { $sort: { '_id.tenant': 1, '_id.city': 1 } }]));
  await step('report: best five orders', () => Order.aggregate([{ $sort: { total: -1, _id: 1 } }, { $limit: 5 }, { $project: { tenantId: 1, number: 1, total: 1 } }]));
  await step('report: the next five', () => Order.aggregate([{ $sort: { total: -1, _id: 1 } }, { $skip: 5 }, { $limit: 5 }, { $project: { _id: 0, tenantId: 1, number: 1, total: 1 } }]));
  await step('report: orders with their users', () => Order.aggregate([{ $match: { number: { $lte: 2 } } }, { $lookup: { from: 'users', localField: 'createdBy', foreignField: '_id', as: 'user' } }, { $unwind: '$user' }, { $project: { tenantId: 1, number: 1, email: '$user.email' } }, { $sort: { _id: 1 } }]));
  await step('report: orders with their items', () => Order.aggregate([{ $match: { number: { $lte: 3 } } }, { $lookup: { from: 'order_items', localField: '_id', foreignField: 'order', as: 'items' } }, { $project: { tenantId: 1, number: 1, items: { $size: '$items' } } }, { $sort: { _id: 1 } }]));
  await step('report: items in a join of their own', () => Order.aggregate([{ $match: { number: 1 } }, { $lookup: { from: 'order_items', localField: '_id', foreignField: 'order', pipeline: [{ $match: { qty: { $gt: 1 } } }, { $project: { sku: 1, qty: 1 } }], as: 'items' } }, { $unwind: '$items' }, { $sort: { 'items._id': 1 } }, { $project: { tenantId: 1, sku: '$items.sku', qty: '$items.qty' } }]));
  await step('report: invoices, orders, users', () => Invoice.aggregate([{ $lookup: { from: 'orders', localField: 'order', foreignField: '_id', as: 'o' } }, { $unwind: '$o' }, { $lookup: { from: 'users', localField: 'o.createdBy', foreignField: '_id', as: 'u' } }, { $unwind: '$u' }, { $group: { _id: '$u.email', amount: { $sum: '$amount' }, n: { $sum: 1 } } }, { $sort: { _id: 1 } }]));
  await step('report: users with how many orders', () => User.aggregate([{ $lookup: { from: 'orders', localField: '_id', foreignField: 'createdBy', as: 'orders' } }, { $project: { email: 1, orders: { $size: '$orders' } } }, { $sort: { email: 1 } }]));
  await step('report: a dashboard in one pipeline', () => Order.aggregate([{ $facet: { states: [{ $sortByCount: '$status' }, { $sort: { count: -1, _id: 1 } }], sizes: [{ $bucket: { groupBy: '$total', boundaries: [0, 25, 50, 100], default: 'more', output: { n: { $sum: 1 } } } }], last: [{ $sort: { placedAt: -1, _id: 1 } }, { $limit: 2 }, { $project: { number: 1 } }], all: [{ $count: 'n' }] } }]));
  await step('report: tags', () => Order.aggregate([{ $unwind: '$tags' }, { $group: { _id: '$tags', n: { $sum: 1 } } }, { $sort: { n: -1, _id: 1 } }]));
  await step('report: everything at once', () => Invoice.aggregate([{ $project: { _id: 0, kind: { $literal: 'invoice' }, tenantId: 1, amount: 1 } }, { $unionWith: { coll: 'transactions', pipeline: [{ $project: { _id: 0, kind: 1, tenantId: 1, amount: 1 } }] } }, { $group: { _id: '$kind', amount: { $sum: '$amount' } } }, { $sort: { _id: 1 } }]));
  await step('report: one tenant with its users', () => Order.aggregate([{ $match: { tenantId: 'acme' } }, { $lookup: { from: 'users', localField: 'createdBy', foreignField: '_id', as: 'u' } }, { $group: { _id: '$u.email', n: { $sum: 1 } } }, { $sort: { _id: 1 } }]));
  await step('report: two tenants', () => Order.aggregate([{ $match: { tenantId: { $in: ['acme', 'globex'] } } }, { $group: { _id: '$tenantId', n: { $sum: 1 } } }, { $sort: { _id: 1 } }]));
  await step('report: counted', () => Order.aggregate([{ $match: { total: { $gt: 20 } } }, { $count: 'n' }]));
  await step('report: in batches', async () => {
    const seen = [];
    for await (const d of Order.aggregate([{ $sort: { total: 1, _id: 1 } }, { $project: { tenantId: 1, number: 1 } }]).cursor({ batchSize: 3 })) seen.push([d.tenantId, d.number]);
    return seen;
  });
  await step('counts', async () => [await Order.countDocuments(), await Order.countDocuments({ status: 'open' }), await Order.countDocuments({ total: { $gt: 20 } }, { skip: 2, limit: 7 }), await Order.estimatedDocumentCount(), await User.estimatedDocumentCount(), await Order.countDocuments({ tenantId: { $ne: 'acme' } })]);
  await step('distinct', async () => [await Order.distinct('status'), await Order.distinct('tenantId'), await Order.distinct('tags', { number: { $lt: 4 } }), await Task.distinct('priority')].map((v) => v.sort()));
  await step('the newest orders', () => Order.find().sort({ placedAt: -1, _id: 1 }).limit(4).select('tenantId number placedAt'));
  await step('a page of them', () => Order.find({ status: { $ne: 'draft' } }).sort({ 'customer.name': 1, _id: -1 }).skip(3).limit(4).select({ number: 1, _id: 0 }).lean());
  await step('the dearest', () => Order.findOne().sort({ total: -1, _id: 1 }).select('tenantId number total').lean());
  await step('is there one', () => Order.exists({ number: 12345 }));
  await step('all of them', async () => (await Order.find({ number: { $lt: 3 } }).lean()).sort(byId));
  await step('with a collation', async () => (await Employee.find({ name: 'EMPLOYEE 1' }).collation({ locale: 'en', strength: 2 }).select('tenantId name').lean()).sort(byId));
}

async function populates() {
  await step('populate: order, user, items', () => Order.find({ number: { $lte: 2 } }).sort({ _id: 1 }).select('tenantId number createdBy').populate('createdBy', 'email').populate({ path: 'items', select: 'sku qty order', options: { sort: { sku: 1 } } }).lean());
  await step('populate: how many items', () => Order.find({ number: { $lte: 4 } }).sort({ _id: 1 }).select('number').populate('lines').lean());
  await step('populate: some items', () => Order.find({ number: 1 }).sort({ _id: 1 }).select('number').populate({ path: 'items', match: { qty: { $gte: 6 } }, select: 'sku -_id order' }).lean());
  await step('populate: match leaves nobody', () => Order.find({ number: { $lte: 2 } }).sort({ _id: 1 }).select('number createdBy').populate({ path: 'createdBy', match: { roles: 'admin' }, select: 'email' }).lean());
  await step('populate: invoice, order, user', () => Invoice.find({ number: { $in: ['R-1', 'R-2'] } }).sort({ _id: 1 }).populate({ path: 'order', select: 'number createdBy tenantId', populate: { path: 'createdBy', select: 'email' } }).lean());
  await step('populate: users, their orders', () => User.find().sort({ email: 1 }).populate({ path: 'orders', select: 'number createdBy tenantId', options: { sort: { number: 1 }, limit: 20 } }).lean());
  await step('populate: two orders of each user', () => User.find({ roles: 'admin' }).sort({ email: 1 }).populate({ path: 'orders', select: 'number createdBy', perDocumentLimit: 2, options: { sort: { number: -1 } } }).lean());
  await step('populate: projects with members', () => Project.find().sort({ _id: 1 }).populate({ path: 'members', options: { sort: { name: -1 } } }).lean());
  await step('populate: over a cursor', async () => {
    const seen = [];
    for await (const t of Transaction.find().sort({ _id: 1 }).batchSize(2).populate({ path: 'invoice', select: 'number order', populate: { path: 'order', select: 'number' } }).lean().cursor()) seen.push([t.tenantId, t.amount, t.invoice?.number, t.invoice?.order?.number]);
    return seen;
  });
}

async function nightly() {
  await step('night: mark what is due', () => Invoice.updateMany({ status: 'due', dueAt: { $lt: date(33) } }, { $set: { status: 'late' }, $inc: { __v: 1 } }));
  await step('night: due ones of two tenants', () => Invoice.updateMany({ tenantId: { $in: ['acme', 'initech'] }, amount: { $gt: 20 } }, { $set: { reminded: true } }, { strict: false }));
  await step('night: by a pipeline', () => OrderItem.updateMany({ qty: { $gt: 2 } }, [{ $set: { price: { $add: ['$price', '$qty'] } } }], { updatePipeline: true }));
  await step('night: raise everybody', () => Employee.updateMany({}, { $mul: { salary: 2 } }));
  await step('night: of nothing', () => Employee.updateMany({ department: 'none' }, { $set: { salary: 0 } }));
  await step('night: clean up', () => Transaction.deleteMany({ amount: { $lt: 6 } }));
  await step('night: with array filters', () => Task.updateMany({}, { $set: { 'checklist.$[c].done': false } }, { arrayFilters: [{ 'c.text': 'b' }] }));
  await step('night: every order, by cursor', async () => {
    const seen = [];
    for await (const o of Order.find().batchSize(3).select('tenantId number').lean().cursor()) seen.push(o);
    return seen.sort(byId);
  });
  await step('night: saved one after the other', async () => {
    let n = 0;
    for await (const e of Employee.find({ department: { $exists: true } }).sort({ _id: 1 }).batchSize(2).cursor()) {
      e.department = e.department.toUpperCase();
      await e.save();
      n++;
    }
    return [n, await Employee.find().sort({ _id: 1 }).lean()];
  });
  await step('night: eachAsync, side by side', async () => {
    let n = 0;
    await Task.find().sort({ _id: 1 }).cursor({ batchSize: 4 }).eachAsync(async (t) => ((n += 1), t.updateOne({ $set: { seen: true } }, { strict: false })), { parallel: 3 });
    return [n, await Task.countDocuments({ seen: true }).setOptions({ strictQuery: false })];
  });
  await step('night: items now', () => OrderItem.find().sort({ _id: 1 }).lean());
  await step('night: invoices now', () => Invoice.find().sort({ _id: 1 }).lean());
}

async function batches() {
  await step('batch: of all tenants, stops at a duplicate', () => Stock.insertMany(each((t) => [4, 1, 5].map((n) => ({ _id: id(t, 'stock', 10 + n), tenantId: t, sku: `S${n}`, qty: n })))));
  await step('batch: and now', () => Stock.find().sort({ _id: 1 }).select('sku').lean());
  await step('batch: unordered goes on', () => Stock.insertMany(each((t) => [4, 2, 6].map((n) => ({ _id: id(t, 'stock', 20 + n), tenantId: t, sku: `S${n}`, qty: n }))), { ordered: false }));
  await step('batch: and then', () => Stock.find().sort({ _id: 1 }).select('sku').lean());
  await step('batch: raw results', async () => counts((await Stock.insertMany(each((t) => ({ _id: id(t, 'stock', 30), tenantId: t, sku: 'S30' })), { rawResult: true }))));
  await step('batch: bulkWrite over tenants', async () =>
    counts(
      await Stock.bulkWrite([
        ...each((t) => [
          { insertOne: { document: { _id: id(t, 'stock', 40), tenantId: t, sku: 'S40', qty: 1 } } },
          { updateOne: { filter: { tenantId: t, sku: 'S40' }, update: { $inc: { qty: 5 } } } },
          { updateOne: { filter: { tenantId: t, sku: 'S41' }, update: { $set: { qty: 41 }, $setOnInsert: { _id: id(t, 'stock', 41) } }, upsert: true } },
          { replaceOne: { filter: { _id: id(t, 'stock', 3) }, replacement: { tenantId: t, sku: 'S3', qty: 33 } } },
        ]),
        { updateMany: { filter: { sku: { $in: ['S40', 'S41'] } }, update: { $inc: { qty: 100 } } } },
        { deleteOne: { filter: { _id: id('globex', 'stock', 30) } } },
        { deleteMany: { filter: { sku: 'S30' } } },
      ]),
    ));
  await step('batch: bulkWrite, ordered, stops', async () => counts(await Stock.bulkWrite([...each((t) => [{ updateOne: { filter: { _id: id(t, 'stock', 1) }, update: { $inc: { qty: 1 } } } }, { insertOne: { document: { _id: id(t, 'stock', 50), tenantId: t, sku: t === 'globex' ? 'S1' : 'S50' } } }])])));
  await step('batch: bulkWrite, unordered, goes on', async () => counts(await Stock.bulkWrite([...each((t) => [{ insertOne: { document: { _id: id(t, 'stock', 51), tenantId: t, sku: 'S1' } } }, { insertOne: { document: { _id: id(t, 'stock', 52), tenantId: t, sku: 'S52' } } }])], { ordered: false })));
  await step('batch: bulkSave of all tenants', async () => {
    const all = await Stock.find({ sku: { $in: ['S1', 'S2'] } }).sort({ _id: 1 });
    for (const s of all) s.bins.push('saved');
    return counts(await Stock.bulkSave(all));
  });
  await step('batch: the driver\'s own', async () => counts(await Stock.collection.bulkWrite([{ updateMany: { filter: {}, update: { $set: { counted: true } } } }, { deleteMany: { filter: { qty: { $gt: 10_000 } } } }, { updateOne: { filter: { sku: 'S2', tenantId: 'initech' }, update: { $unset: { counted: '' } } } }])));
  await step('batch: stock now', () => Stock.find().sort({ _id: 1 }).lean());
}

async function queues() {
  await step('queue: of each tenant, by priority', async () => {
    const order = [];
    for (const t of tenants) {
      for (let n = 0; n < 2; n++) {
        const j = await Job.findOneAndUpdate({ tenantId: t, state: 'waiting' }, { $set: { state: 'running', by: 'w1' }, $inc: { tries: 1 } }, { sort: { priority: -1 }, returnDocument: 'after' });
        order.push([j.tenantId, j.priority, j.state, j.tries]);
      }
    }
    return order;
  });
  await step('queue: of all tenants, by priority', async () => {
    const order = [];
    for (;;) {
      const j = await Job.findOneAndUpdate({ state: 'waiting' }, { $set: { state: 'running', by: 'w2' }, $inc: { tries: 1 } }, { sort: { priority: -1, _id: 1 }, returnDocument: 'before', projection: 'tenantId priority state' }).lean();
      if (!j || order.length > 20) return order;
      order.push([j.tenantId, j.priority, j.state]);
    }
  });
  await step('queue: done, by _id', async () => (await Promise.all(tenants.map((t) => Job.findByIdAndUpdate(id(t, 'job', 1), { state: 'done' }, { returnDocument: 'after' }).lean()))).map((j) => [j.tenantId, j.state]));
  await step('queue: the oldest done is taken away', () => Job.findOneAndDelete({ state: 'done' }, { sort: { priority: 1 } }).lean());
  await step('queue: one replaced, of all', () => Job.findOneAndReplace({ kind: 'print', state: 'running' }, { tenantId: 'acme', kind: 'print', priority: 0, state: 'again' }, { sort: { priority: 1 }, returnDocument: 'after' }).lean());
  await step('queue: one put back, of all', () => Job.updateOne({ state: 'running', priority: 42 }, { $set: { state: 'waiting' } }));
  await step('queue: one removed, of all', () => Job.deleteOne({ priority: 31 }));
  await step('queue: now', () => Job.find().sort({ _id: 1 }).lean());
}

async function upserts() {
  await step('upsert: by _id and tenant', async () => [await Stock.updateOne({ _id: id('acme', 'stock', 60), tenantId: 'acme' }, { $set: { sku: 'U60', qty: 1 } }, { upsert: true }), await Stock.updateOne({ _id: id('globex', 'stock', 60), tenantId: 'globex' }, { $set: { sku: 'U60', qty: 1 } }, { upsert: true })]);
  await step('upsert: by _id alone, tenant set', async () => Promise.all(tenants.map((t) => Stock.updateOne({ _id: id(t, 'stock', 61) }, { $set: { sku: 'U61' }, $setOnInsert: { tenantId: t } }, { upsert: true }))));
  await step('upsert: the same again', async () => Promise.all(tenants.map((t) => Stock.updateOne({ _id: id(t, 'stock', 61) }, { $set: { sku: 'U61', qty: 2 }, $setOnInsert: { tenantId: t } }, { upsert: true }))));
  await step('upsert: findOneAndUpdate by _id', () => Promise.all(tenants.map((t) => Stock.findOneAndUpdate({ _id: id(t, 'stock', 62) }, { $set: { sku: 'U62', tenantId: t } }, { upsert: true, returnDocument: 'after' }).lean())));
  await step('upsert: by another field, tenant set', async () => [await Stock.updateOne({ sku: 'U63' }, { $set: { tenantId: 'acme', qty: 63 }, $setOnInsert: { _id: id('acme', 'stock', 63) } }, { upsert: true }), await Stock.updateOne({ sku: 'U63' }, { $inc: { qty: 1 } }, { upsert: true })]);
  await step('upsert: findOneAndUpdate, another field', () => Stock.findOneAndUpdate({ sku: 'U64' }, { $setOnInsert: { _id: id('globex', 'stock', 64), tenantId: 'globex' }, $set: { qty: 64 } }, { upsert: true, returnDocument: 'after' }).lean());
  await step('upsert: replaceOne by _id', async () => Promise.all(tenants.map((t) => Stock.replaceOne({ _id: id(t, 'stock', 66) }, { tenantId: t, sku: 'U66' }, { upsert: true }))));
  await step('upsert: many at once', async () => counts(await Stock.bulkWrite(each((t) => [{ updateOne: { filter: { _id: id(t, 'stock', 67) }, update: { $set: { sku: 'U67' }, $setOnInsert: { tenantId: t } }, upsert: true } }, { updateOne: { filter: { tenantId: t, sku: 'U68' }, update: { $set: { qty: 1 }, $setOnInsert: { _id: id(t, 'stock', 68) } }, upsert: true } }]))));
  await step('upsert: a duplicate', () => Stock.updateOne({ _id: id('acme', 'stock', 69), tenantId: 'acme' }, { $set: { sku: 'U60' } }, { upsert: true }));
  await step('upsert: stock now', () => Stock.find({ sku: /^U/ }).sort({ _id: 1 }).lean());
}

async function versions() {
  for (const t of tenants) {
    await step(`${t}: optimistic, the second one loses`, async () => {
      const one = await Stock.findById(id(t, 'stock', 2));
      const two = await Stock.findOne({ tenantId: t, sku: 'S2' });
      one.qty += 1;
      await one.save();
      two.qty += 10;
      return two.save();
    });
    await step(`${t}: and tries again`, async () => {
      const s = await Stock.findById(id(t, 'stock', 2));
      s.qty += 10;
      return s.save();
    });
  }
  await step('papers of all kinds', () => Paper.find().sort({ _id: 1 }).lean());
  await step('contracts', () => Contract.find({ until: { $gt: date(365) } }).sort({ _id: 1 }));
  await step('letters, changed', async () => [await Letter.updateMany({}, { $inc: { pages: 1 } }), await Letter.findByIdAndUpdate(id('acme', 'paper', 2), { to: 'X' }, { returnDocument: 'after' }), await Letter.countDocuments(), await Contract.distinct('partner')]);
  await step('a letter is no contract', () => Contract.findById(id('acme', 'paper', 2)));
  await step('by kind', () => Paper.aggregate([{ $group: { _id: '$__t', n: { $sum: 1 } } }, { $sort: { _id: 1 } }]));
  await step('what the clock says', async () => {
    const before = Date.now();
    const p = await Paper.create({ _id: id('acme', 'paper', 9), tenantId: 'acme', title: 'now' }, { timestamps: false });
    await Paper.collection.updateOne({ _id: p._id }, { $currentDate: { at: true } });
    const { at } = await Paper.collection.findOne({ _id: p._id });
    await Paper.deleteOne({ _id: p._id });
    return Math.abs(at.getTime() - before) < 60_000;
  });
}

async function transactions() {
  const session = await mongoose.startSession();
  try {
    await step('transaction over tenants', async () => {
      await session.withTransaction(async () => {
        for (const t of tenants) {
          await Order.updateOne({ tenantId: t, number: 1 }, { $set: { status: 'closed' } }, { session });
          await Invoice.create([{ _id: id(t, 'invoice', 70), tenantId: t, number: 'R-70', amount: 70 }], { session });
        }
        await Job.insertMany(each((t) => ({ _id: id(t, 'job', 70), tenantId: t, kind: 'close', priority: 1 })), { session });
        await User.updateMany({}, { $addToSet: { roles: 'closer' } }, { session });
      });
      return [await Order.find({ number: 1 }).sort({ _id: 1 }).select('status').lean(), await Invoice.countDocuments({ number: 'R-70' }), await Job.countDocuments({ kind: 'close' }), await User.countDocuments({ roles: 'closer' })];
    });
    await step('transaction that reads all', async () => {
      let seen;
      await session.withTransaction(async () => {
        await Job.create([{ _id: id('acme', 'job', 71), tenantId: 'acme', kind: 'inside', priority: 1 }], { session });
        seen = [await Job.countDocuments({}, { session }), await Job.distinct('kind').session(session), await Job.find({ kind: 'inside' }, null, { session }).lean(), await Job.aggregate([{ $group: { _id: '$kind', n: { $sum: 1 } } }, { $sort: { _id: 1 } }]).session(session)];
        seen[1].sort();
      });
      return seen;
    });
    await step('transaction over tenants, given up', async () => {
      await session.withTransaction(async () => {
        await Job.updateMany({}, { $set: { state: 'lost' } }, { session });
        await Stock.deleteMany({}, { session });
        await Job.insertMany(each((t) => ({ _id: id(t, 'job', 72), tenantId: t, kind: 'lost', priority: 1 })), { session });
        throw new Error(`not after all: ${await Job.countDocuments({ state: 'lost' }).session(session)}`);
      });
    });
    await step('transaction over tenants, duplicate', async () => {
      await session.withTransaction(async () => {
        await Job.create([{ _id: id('acme', 'job', 73), tenantId: 'acme', kind: 'lost', priority: 1 }], { session });
        await Stock.create([{ _id: id('globex', 'stock', 73), tenantId: 'globex', sku: 'S1' }], { session });
      });
    });
    await step('nothing of both stayed', async () => [await Job.countDocuments({ $or: [{ kind: 'lost' }, { state: 'lost' }] }), await Stock.countDocuments()]);
  } finally {
    await session.endSession();
  }
}

async function validators() {
  const db = mongoose.connection.db;
  await step('create with a validator', async () => (await db.createCollection('ledger', { validator: { $jsonSchema: { bsonType: 'object', required: ['tenantId', 'amount'], properties: { amount: { bsonType: ['int', 'double'] } } } }, validationLevel: 'strict', validationAction: 'error' })).collectionName);
  await step('create it again', async () => (await db.createCollection('ledger', { capped: true, size: 4096 })).collectionName);
  await step('entries', () => Entry.insertMany(each((t, i) => [1, 2].map((n) => ({ _id: id(t, 'entry', n), tenantId: t, account: `A${n}`, amount: n + i })))));
  for (const t of tenants) {
    await step(`${t}: not valid`, () => Entry.create({ _id: id(t, 'entry', 9), tenantId: t, account: 'A9' }));
    await step(`${t}: not valid any more`, () => Entry.collection.updateOne({ tenantId: t, account: 'A1' }, { $set: { amount: 'much' } }));
  }
  await step('not valid, of all', () => Entry.collection.updateMany({ account: 'A2' }, { $unset: { amount: '' } }));
  await step('one of a batch not valid', async () => counts(await Entry.collection.bulkWrite(each((t) => ({ insertOne: { document: { _id: id(t, 'entry', 10), tenantId: t, ...(t === 'globex' ? {} : { amount: 1 }) } } })), { ordered: false })));
  await step('a laxer one', () => db.command({ collMod: 'ledger', validator: { tenantId: { $exists: true } } }).then((r) => r.ok));
  await step('now it is', async () => (await Promise.all(tenants.map((t) => Entry.create({ _id: id(t, 'entry', 9), tenantId: t, account: 'A9' })))).length);
  await step('its options', async () => (await db.listCollections({ name: 'ledger' }).toArray()).map(({ name, type, options }) => ({ name, type, options })));
  await step('ledger', () => Entry.find().sort({ _id: 1 }).lean());
}

async function indexing() {
  await step('createIndexes again', () => Order.createIndexes().then(() => 'done'));
  await step('ensureIndexes', () => Invoice.ensureIndexes().then(() => 'done'));
  await step('an index of the same name', () => Order.collection.createIndex({ tenantId: 1, total: 1 }, { name: 'tenantId_1_number_1' }));
  await step('one more', () => Order.collection.createIndex({ tenantId: 1, total: -1 }));
  await step('what sync would do', async () => ((d) => ({ drop: d.toDrop, create: d.toCreate }))(await Order.diffIndexes()));
  await step('sync', () => Order.syncIndexes());
  await step('and again', () => Order.syncIndexes());
  await step('drop of none', () => Order.collection.dropIndex('none_1'));
  await step('partial, by name, dropped', async () => {
    const name = await Order.collection.createIndex({ tenantId: 1, placedAt: 1 }, { name: 'open_ones', partialFilterExpression: { status: 'open' } });
    const there = (await Order.collection.indexes()).map((i) => i.name).sort();
    await Order.collection.dropIndex('open_ones');
    return { name, there, left: (await Order.collection.indexes()).map((i) => i.name).sort() };
  });
  await step('a collection that comes and goes', async () => {
    const gone = mongoose.connection.collection('order_items_old');
    await gone.insertMany(tenants.map((t, n) => ({ _id: n, tenantId: t })));
    const held = await gone.countDocuments();
    const ok = await gone.drop();
    return { held, ok, left: await gone.countDocuments() };
  });
}

export async function day(apart) {
  await fill();
  await reports();
  await populates();
  await nightly();
  await batches();
  await queues();
  await upserts();
  await versions();
  if (!apart) await transactions();
  await validators();
  await indexing();
}
