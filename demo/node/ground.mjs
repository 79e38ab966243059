// What the parts of the Mongoose ERP (erp.mjs) share: the log, the ids and
// times that are made here, and the models.

import mongoose from 'mongoose';

const { Schema, Types } = mongoose;
const { EJSON } = mongoose.mongo.BSON;

// ---- the log ----

let line = 0;
const print = (op, fact) =>
  console.log(EJSON.stringify({ n: ++line, op, ...fact }, { relaxed: true }));

function plain(value) {
  if (value instanceof mongoose.Document) return value.toObject({ flattenMaps: true, virtuals: false });
  if (Array.isArray(value)) return value.map(plain);
  return value === undefined ? null : value;
}

const uuid = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g;

function failure(err) {
  const fact = { name: err.name, message: err.message.replace(uuid, '…') }; // they differ from server to server
  for (const k of ['code', 'codeName', 'keyPattern', 'keyValue']) if (err[k] !== undefined) fact[k] = err[k];
  if (err.errors) fact.fields = Object.entries(err.errors).map(([k, e]) => [k, e.kind, e.message]);
  if (err.writeErrors) {
    fact.writeErrors = [].concat(err.writeErrors).map((w) => ({ index: w.index, code: w.code, message: w.errmsg ?? w.err?.errmsg }));
  }
  if (err.result?.insertedCount !== undefined) fact.counts = counts(err.result);
  return fact;
}

// The facts of a bulk write's result that every driver version has.
export const counts = (r) => ({
  inserted: r.insertedCount,
  matched: r.matchedCount,
  modified: r.modifiedCount,
  deleted: r.deletedCount,
  upserted: r.upsertedCount,
  upsertedIds: r.upsertedIds,
});

// An operation that ought to work and one that ought not: either way what it
// came to is a line, and the run goes on.
export async function step(op, work) {
  try {
    const result = plain(await work());
    print(op, { result });
    return result;
  } catch (err) {
    print(op, { error: failure(err) });
    return undefined;
  }
}

// ---- ids and times made here ----

const kinds = { tenant: 1, user: 2, package: 3, order: 4, item: 5, invoice: 6, transaction: 7, employee: 8, project: 9, task: 10, job: 11, stock: 12, paper: 13, entry: 14 };
export const tenants = ['acme', 'globex', 'initech'];
const hex = (n, width) => n.toString(16).padStart(width, '0');
export const id = (tenant, kind, n) =>
  new Types.ObjectId('65a0' + hex(tenants.indexOf(tenant) + 1, 4) + hex(kinds[kind], 4) + hex(n, 12));
const start = Date.UTC(2024, 0, 1);
export const day = (n) => new Date(start + n * 86_400_000);
const timestamps = { currentTime: () => day(0) };

// ---- models ----

const options = (collection) => ({ collection, timestamps, autoCreate: true, autoIndex: true });
const scoped = { tenantId: { type: String, required: true } };
const ref = (model) => ({ type: Schema.Types.ObjectId, ref: model });

function model(name, collection, fields, ...indexes) {
  const schema = new Schema(fields, options(collection));
  for (const [keys, opts] of indexes) schema.index(keys, opts);
  return mongoose.model(name, schema);
}

// Platform data: shared whatever happens.
export const Tenant = model('Tenant', 'tenants', { _id: String, slug: { type: String, unique: true }, name: String, dbMode: { type: String, enum: ['shared', 'per-tenant'], default: 'shared' }, package: ref('Package') });
export const Package = model('Package', 'packages', { name: { type: String, unique: true }, price: Number, modules: [String] });
export const User = model('User', 'users', { tenantId: String, email: { type: String, unique: true }, name: String, roles: [String] }, [{ tenantId: 1, name: 1 }]);

// Tenant data, by module.
export const Order = model(
  'Order',
  'orders',
  {
    ...scoped,
    number: { type: Number, required: true, min: 1 },
    status: { type: String, enum: ['draft', 'open', 'paid', 'closed'], default: 'draft' },
    customer: { name: String, address: { city: String, country: String } },
    tags: [String],
    total: Number,
    placedAt: Date,
    createdBy: ref('User'),
    seller: ref('Employee'),
  },
  [{ tenantId: 1, number: 1 }, { unique: true }],
  [{ tenantId: 1, status: 1, placedAt: -1 }],
);
export const OrderItem = model('OrderItem', 'order_items', { ...scoped, order: ref('Order'), sku: String, qty: Number, price: Number, attributes: { type: Map, of: String } }, [{ tenantId: 1, order: 1, sku: 1 }, { unique: true }]);
export const Invoice = model('Invoice', 'invoices', { ...scoped, number: String, order: ref('Order'), amount: Number, status: String, dueAt: Date }, [{ tenantId: 1, number: 1 }, { unique: true }]);
export const Transaction = model('Transaction', 'transactions', { ...scoped, invoice: ref('Invoice'), amount: Number, kind: String, bookedAt: Date }, [{ tenantId: 1, bookedAt: 1 }]);
export const Employee = model('Employee', 'employees', { ...scoped, user: ref('User'), name: { type: String, required: true }, department: String, salary: Number, manager: ref('Employee') }, [{ tenantId: 1, name: 1 }]);
export const Project = model('Project', 'projects', { ...scoped, code: String, name: String, lead: ref('Employee'), members: [ref('Employee')] }, [{ tenantId: 1, code: 1 }, { unique: true }]);
export const Task = model('Task', 'tasks', { ...scoped, project: ref('Project'), assignee: ref('Employee'), title: String, priority: Number, done: Boolean, checklist: [{ _id: false, text: String, done: Boolean }] }, [{ tenantId: 1, project: 1, priority: 1 }]);

// Of the day's work (day.mjs).
export const Job = model('Job', 'jobs', { ...scoped, kind: String, priority: Number, state: { type: String, default: 'waiting' }, by: String, tries: { type: Number, default: 0 } }, [{ tenantId: 1, state: 1, priority: -1 }]);
export const Stock = mongoose.model(
  'Stock',
  new Schema({ ...scoped, sku: String, qty: Number, bins: [String] }, { ...options('stock'), optimisticConcurrency: true }).index({ tenantId: 1, sku: 1 }, { unique: true }),
);
export const Paper = model('Paper', 'papers', { ...scoped, title: String });
export const Contract = Paper.discriminator('Contract', new Schema({ partner: String, until: Date }));
export const Letter = Paper.discriminator('Letter', new Schema({ to: String, pages: Number }));
// Its collection is created by hand, with a validator.
export const Entry = mongoose.model('Entry', new Schema({ ...scoped, account: String, amount: Number }, { collection: 'ledger', autoCreate: false, autoIndex: false }));

Order.schema.virtual('items', { ref: 'OrderItem', localField: '_id', foreignField: 'order' });
Order.schema.virtual('lines', { ref: 'OrderItem', localField: '_id', foreignField: 'order', count: true });
User.schema.virtual('orders', { ref: 'Order', localField: '_id', foreignField: 'createdBy' });

export const models = [Tenant, Package, User, Order, OrderItem, Invoice, Transaction, Employee, Project, Task, Job, Stock, Paper];
