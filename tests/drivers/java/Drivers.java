import java.io.IOException;
import java.io.StringReader;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Base64;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

/** JDBC through a connection that the environment names. */
public final class Drivers {
    private static int failed;

    private interface Work {
        void run(Connection connection) throws Exception;
    }

    private static Connection connect() throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("sslmode", "verify-full");
        properties.setProperty("sslrootcert", System.getenv("PGSSLROOTCERT"));
        properties.setProperty("targetServerType", "primary");
        if (System.getenv("PGSSLCERT") != null) {
            properties.setProperty("sslcert", System.getenv("PGSSLCERT"));
            properties.setProperty("sslkey", key(System.getenv("PGSSLKEY")));
        }
        String place = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        String url = "jdbc:postgresql://" + place + "/" + System.getenv("PGDATABASE");
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

    private static void check(String name, Work work) {
        try (Connection connection = connect()) {
            work.run(connection);
            System.out.println("ok jdbc " + name);
        } catch (Exception error) {
            failed++;
            System.out.println("FAILED jdbc " + name);
            error.printStackTrace(System.out);
        }
    }

    private static int one(Statement statement, String query) throws SQLException {
        try (ResultSet rows = statement.executeQuery(query)) {
            rows.next();
            return rows.getInt(1);
        }
    }

    private static void equal(long got, long wanted) {
        if (got != wanted) {
            throw new IllegalStateException(got + " instead of " + wanted);
        }
    }

    public static void main(String[] arguments) {
        check("prepared", connection -> {
            try (PreparedStatement statement = connection.prepareStatement("SELECT ?::int + 1")) {
                for (int n = 0; n < 20; n++) {
                    statement.setInt(1, n);
                    try (ResultSet rows = statement.executeQuery()) {
                        rows.next();
                        equal(rows.getInt(1), n + 1);
                    }
                }
            }
        });
        check("batch", connection -> {
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                statement.execute("CREATE TABLE IF NOT EXISTS drv_java (n int)");
                statement.execute("TRUNCATE drv_java");
                try (PreparedStatement insert = connection.prepareStatement("INSERT INTO drv_java VALUES (?)")) {
                    for (int n = 0; n < 5000; n++) {
                        insert.setInt(1, n);
                        insert.addBatch();
                    }
                    insert.executeBatch();
                }
                connection.commit();
                equal(one(statement, "SELECT count(*) FROM drv_java"), 5000);
                connection.rollback();
            }
        });
        check("fetch size", connection -> {
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(500);
                try (ResultSet rows = statement.executeQuery("SELECT generate_series(1, 20000)")) {
                    int count = 0;
                    while (rows.next()) {
                        count++;
                    }
                    equal(count, 20000);
                }
            }
        });
        check("copy", connection -> {
            CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int n = 0; n < 50000; n++) {
                lines.append(n).append('\n');
            }
            equal(copy.copyIn("COPY drv_java FROM STDIN", new StringReader(lines.toString())), 50000);
            StringWriter sink = new StringWriter();
            equal(copy.copyOut("COPY drv_java TO STDOUT", sink), 55000);
        });
        check("cancel", connection -> {
            try (Statement statement = connection.createStatement()) {
                statement.setQueryTimeout(1);
                try {
                    statement.execute("SELECT pg_sleep(20)");
                    throw new IllegalStateException("not cancelled");
                } catch (SQLException error) {
                    if (!"57014".equals(error.getSQLState())) {
                        throw error;
                    }
                }
                statement.setQueryTimeout(0);
                equal(one(statement, "SELECT 1"), 1);
            }
        });
        check("notifications", connection -> {
            try (Statement statement = connection.createStatement()) {
                statement.execute("LISTEN drv_java");
                statement.execute("NOTIFY drv_java, 'hello'");
                equal(connection.unwrap(PGConnection.class).getNotifications(10000).length, 1);
            }
        });
        check("errors", connection -> {
            try (Statement statement = connection.createStatement()) {
                try {
                    statement.execute("SELECT * FROM no_such_table");
                    throw new IllegalStateException("no error");
                } catch (SQLException error) {
                    if (!"42P01".equals(error.getSQLState())) {
                        throw error;
                    }
                }
                equal(one(statement, "SELECT 1"), 1);
            }
        });
        check("end", connection -> {
            try (Statement statement = connection.createStatement()) {
                statement.execute("DROP TABLE IF EXISTS drv_java");
            }
        });
        System.exit(failed);
    }
}
