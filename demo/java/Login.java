import com.mongodb.MongoCommandException;
import com.mongodb.client.MongoClient;
import com.mongodb.client.MongoClients;
import java.util.ArrayList;
import org.bson.Document;

/** Logs in by each connection string and counts the orders: see ../node/login.mjs. */
class Login {
  public static void main(String[] uris) {
    for (String uri : uris) {
      Document fact;
      try (MongoClient client = MongoClients.create(uri)) {
        var orders = client.getDatabase("smetasc_shared").getCollection("orders");
        fact = new Document("count", orders.find().into(new ArrayList<>()).size());
      } catch (Exception e) {
        fact = new Document("message", e.getMessage());
        for (Throwable cause = e; cause != null; cause = cause.getCause()) {
          if (cause instanceof MongoCommandException failed) {
            fact.append("code", failed.getErrorCode()).append("message", failed.getErrorMessage());
          }
        }
      }
      System.out.println(fact.toJson());
    }
  }
}
