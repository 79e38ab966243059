// Logs in by each connection string and counts the orders.
//
//   node login.mjs URI…
//
// It prints one line of JSON for each: the count, or the error's code and text.
import { MongoClient } from 'mongodb';

for (const uri of process.argv.slice(2)) {
  const client = new MongoClient(uri, { serverSelectionTimeoutMS: 10_000 });
  let fact;
  try {
    fact = { count: (await client.db('smetasc_shared').collection('orders').find({}).toArray()).length };
  } catch (err) {
    fact = { code: err.code, message: err.message };
  }
  console.log(JSON.stringify(fact));
  await client.close();
}
