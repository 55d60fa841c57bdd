import java.io.StringReader;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.util.PSQLException;
import org.postgresql.util.PSQLWarning;
import org.postgresql.util.ServerErrorMessage;

/**
 * JDBC through a connection that the environment names. Each case prints a line of what it saw: by the front it has to be the
 * same as at the primary itself.
 */
public final class Drivers {
    /** Looks at a statement that is to sleep before it is cancelled. */
    private static final int LOOKS = 5000;

    private static int failed;

    private interface Work {
        Object of(Connection connection, Statement statement) throws Exception;
    }

    private static void check(String name, Work work) {
        try (Connection connection = Logins.connect(); Statement statement = connection.createStatement()) {
            System.out.println("ok jdbc " + name + ": " + work.of(connection, statement));
        } catch (Exception error) {
            failed++;
            System.out.println("FAILED jdbc " + name);
            error.printStackTrace(System.out);
        }
    }

    private static String one(Statement statement, String query) throws SQLException {
        try (ResultSet rows = statement.executeQuery(query)) {
            rows.next();
            return rows.getString(1);
        }
    }

    private static String digest(String text) throws Exception {
        byte[] sum = MessageDigest.getInstance("MD5").digest(text.getBytes(StandardCharsets.UTF_8));
        return HexFormat.of().formatHex(sum);
    }

    private static List<Object> fields(ServerErrorMessage said) {
        List<Object> all = new ArrayList<>(List.of(said.getSeverity(), said.getSQLState(), said.getMessage()));
        all.add(said.getDetail());
        all.add(said.getHint());
        all.add(said.getPosition());
        all.add(said.getWhere());
        all.add(said.getTable());
        all.add(said.getConstraint());
        return all;
    }

    private static Object wrong(Statement statement, String query) {
        try {
            statement.execute(query);
            return "no error";
        } catch (SQLException error) {
            boolean told = error instanceof PSQLException psql && psql.getServerErrorMessage() != null;
            return told ? fields(((PSQLException) error).getServerErrorMessage()) : error.toString();
        }
    }

    private static Object prepared(Connection connection, Statement looking) throws SQLException {
        int sum = 0;
        try (PreparedStatement statement = connection.prepareStatement("SELECT ?::int + 1")) {
            for (int n = 0; n < 20; n++) {
                statement.setInt(1, n);
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    sum += rows.getInt(1);
                }
            }
            return List.of(sum, one(looking, "SELECT count(*) FROM pg_prepared_statements"));
        }
    }

    private static Object batch(Connection connection, Statement statement) throws SQLException {
        connection.setAutoCommit(false);
        statement.execute("DROP TABLE IF EXISTS drv_java");
        statement.execute("CREATE TABLE drv_java (n int PRIMARY KEY)");
        String failure = "none";
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO drv_java VALUES (?)")) {
            for (int n = 0; n < 5000; n++) {
                insert.setInt(1, n);
                insert.addBatch();
            }
            insert.executeBatch();
            connection.commit();
            for (int n = 4999; n < 5010; n++) {
                insert.setInt(1, n);
                insert.addBatch();
            }
            insert.executeBatch();
        } catch (BatchUpdateException error) {
            failure = error.getSQLState();
        }
        connection.rollback();
        Savepoint before = connection.setSavepoint();
        statement.execute("DELETE FROM drv_java");
        connection.rollback(before);
        List<Object> saw = List.of(failure, one(statement, "SELECT count(*) FROM drv_java"));
        connection.commit();
        return saw;
    }

    private static Object fetched(Connection connection, Statement statement) throws SQLException {
        connection.setAutoCommit(false);
        statement.setFetchSize(500);
        long sum = 0;
        try (ResultSet rows = statement.executeQuery("SELECT generate_series(1, 20000)")) {
            while (rows.next()) {
                sum += rows.getInt(1);
            }
        }
        return sum;
    }

    private static Object copy(Connection connection, Statement statement) throws Exception {
        CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
        statement.execute("TRUNCATE drv_java");
        StringBuilder lines = new StringBuilder();
        for (int n = 0; n < 50000; n++) {
            lines.append(n).append('\n');
        }
        long in = copy.copyIn("COPY drv_java FROM STDIN", new StringReader(lines.toString()));
        StringWriter sink = new StringWriter();
        long out = copy.copyOut("COPY drv_java TO STDOUT", sink);
        Object bad = "no error";
        try {
            copy.copyIn("COPY drv_java FROM STDIN", new StringReader("no number\n"));
        } catch (PSQLException error) {
            bad = fields(error.getServerErrorMessage());
        }
        return List.of(in, out, digest(sink.toString()), bad, one(statement, "SELECT count(*) FROM drv_java"));
    }

    private static Object large(Connection connection, Statement statement) throws Exception {
        StringBuilder all = new StringBuilder();
        try (ResultSet rows = statement.executeQuery("SELECT md5(n::text) FROM generate_series(1, 100000) n")) {
            while (rows.next()) {
                all.append(rows.getString(1));
            }
        }
        String value = one(statement, "SELECT repeat('y', 10000000)");
        try (PreparedStatement with = connection.prepareStatement("SELECT md5(?)")) {
            with.setString(1, "z".repeat(5_000_000));
            try (ResultSet rows = with.executeQuery()) {
                rows.next();
                return List.of(digest(all.toString()), digest(value), rows.getString(1));
            }
        }
    }

    private static boolean asleep(int pid) throws SQLException {
        try (Connection connection = Logins.connect(); Statement statement = connection.createStatement()) {
            String query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = " + pid;
            for (int n = 0; n < LOOKS; n++) {
                if (one(statement, query).equals("1")) {
                    return true;
                }
            }
            return false;
        }
    }

    private static Object cancel(Connection connection, Statement statement) throws Exception {
        int pid = connection.unwrap(PGConnection.class).getBackendPID();
        CompletableFuture<Boolean> asked = CompletableFuture.supplyAsync(() -> {
            try {
                boolean asleep = asleep(pid);
                statement.cancel();
                return asleep;
            } catch (SQLException error) {
                throw new IllegalStateException(error);
            }
        });
        Object said = wrong(statement, "SELECT pg_sleep(60)");
        boolean asleep = asked.get();
        statement.setQueryTimeout(1);
        Object late = wrong(statement, "SELECT pg_sleep(60)");
        statement.setQueryTimeout(0);
        return List.of(asleep, said, late, one(statement, "SELECT 1"));
    }

    private static Object notifications(Connection connection, Statement statement) throws SQLException {
        statement.execute("LISTEN drv_java");
        try (Connection other = Logins.connect(); Statement speaker = other.createStatement()) {
            speaker.execute("NOTIFY drv_java, 'hello: naïve 猫'");
            PGNotification[] heard = connection.unwrap(PGConnection.class).getNotifications(30000);
            boolean own = heard[0].getPID() == other.unwrap(PGConnection.class).getBackendPID();
            return List.of(heard.length, heard[0].getName(), heard[0].getParameter(), own);
        }
    }

    private static Object errors(Connection connection, Statement statement) throws SQLException {
        List<Object> saw = new ArrayList<>();
        for (String query : List.of(
                "SELECT * FROM no_such_table",
                "INSERT INTO drv_java VALUES (1)",
                "SELECT 1 / 0",
                "DO $$BEGIN RAISE 'own: naïve 猫' USING ERRCODE = 'MY001', DETAIL = 'd', HINT = 'h'; END$$")) {
            saw.add(wrong(statement, query));
        }
        saw.add(one(statement, "SELECT 1"));
        return saw;
    }

    private static Object notices(Connection connection, Statement statement) throws SQLException {
        statement.execute(
                "DO $$BEGIN RAISE NOTICE 'a notice' USING DETAIL = 'd', HINT = 'h'; RAISE WARNING 'naïve 猫'; END$$");
        List<Object> saw = new ArrayList<>();
        for (SQLWarning next = statement.getWarnings(); next != null; next = next.getNextWarning()) {
            saw.add(fields(((PSQLWarning) next).getServerErrorMessage()));
        }
        return saw;
    }

    public static void main(String[] arguments) {
        check("logins", (connection, statement) -> Logins.all());
        check("session", (connection, statement) ->
                new TreeMap<>(connection.unwrap(PGConnection.class).getParameterStatuses()));
        check("prepared", Drivers::prepared);
        check("batch", Drivers::batch);
        check("errors", Drivers::errors);
        check("notices", Drivers::notices);
        check("fetch size", Drivers::fetched);
        check("copy", Drivers::copy);
        check("large", Drivers::large);
        check("cancel", Drivers::cancel);
        check("notifications", Drivers::notifications);
        check("end", (connection, statement) -> statement.executeUpdate("DROP TABLE drv_java"));
        System.exit(failed);
    }
}
