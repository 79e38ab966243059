// login.mjs in mongosh, which has the connection strings in `uris`.
for (const uri of uris) {
  let fact;
  try {
    fact = { count: connect(uri).getSiblingDB('smetasc_shared').orders.find({}).toArray().length };
  } catch (err) {
    fact = { code: err.code, message: err.message };
  }
  print(JSON.stringify(fact));
}
