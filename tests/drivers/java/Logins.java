import java.io.IOException;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Properties;

/** Connections as the environment has them, or changed in one point. */
final class Logins {
    private Logins() {}

    static Connection connect(String... changes) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("sslmode", "verify-full");
        properties.setProperty("sslrootcert", System.getenv("PGSSLROOTCERT"));
        properties.setProperty("targetServerType", "primary");
        properties.setProperty("ApplicationName", "drivers");
        if (System.getenv("PGSSLCERT") != null) {
            properties.setProperty("sslcert", System.getenv("PGSSLCERT"));
            properties.setProperty("sslkey", key(System.getenv("PGSSLKEY")));
        }
        String host = System.getenv("PGHOST");
        String database = System.getenv("PGDATABASE");
        for (int n = 0; n < changes.length; n += 2) {
            switch (changes[n]) {
                case "host" -> host = changes[n + 1];
                case "database" -> database = changes[n + 1];
                default -> properties.setProperty(changes[n], changes[n + 1]);
            }
        }
        String url = "jdbc:postgresql://" + host + ":" + System.getenv("PGPORT") + "/" + database;
        return DriverManager.getConnection(url, properties);
    }

    /** The key as this driver wants it: the bytes that PEM spells out. */
    private static String key(String pem) throws SQLException {
        try {
            String text = Files.readString(Path.of(pem)).replaceAll("-----[A-Z ]+-----|\\s", "");
            Path path = Files.createTempFile("drivers", ".pk8");
            path.toFile().deleteOnExit();
            Files.write(path, Base64.getDecoder().decode(text));
            return path.toString();
        } catch (IOException error) {
            throw new SQLException(error);
        }
    }

    /** In a word, so that nothing of it names hosts. */
    private static String cameOf(String... changes) {
        try (Connection connection = connect(changes)) {
            return connection.isValid(10) ? "in" : "not valid";
        } catch (SQLException error) {
            return error.getSQLState();
        }
    }

    static Map<String, String> all() throws IOException {
        String address = InetAddress.getByName(System.getenv("PGHOST")).getHostAddress();
        Map<String, String> saw = new LinkedHashMap<>();
        saw.put("no TLS", cameOf("sslmode", "disable"));
        saw.put("whatever", cameOf("sslmode", "prefer"));
        saw.put("TLS", cameOf("sslmode", "require"));
        saw.put("by the authority", cameOf("sslmode", "verify-ca", "host", address));
        saw.put("another name", cameOf("host", address));
        saw.put("another authority", cameOf("sslfactory", "org.postgresql.ssl.DefaultJavaSSLFactory"));
        saw.put("TLS at once", cameOf("sslNegotiation", "direct"));
        saw.put("bound to the channel", cameOf("channelBinding", "require"));
        saw.put("not bound to it", cameOf("channelBinding", "disable"));
        saw.put("simple statements", cameOf("preferQueryMode", "simple"));
        saw.put("wrong password", cameOf("password", "wrong"));
        saw.put("no such database", cameOf("database", "nowhere"));
        return saw;
    }
}
