// Command drivers tries pgx through a connection that the environment names. Each case prints a line of what it saw: by the
// front it has to be the same as at the primary itself.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Longest time for a case.
const limit = 2 * time.Minute

var failed int

// What a case saw, in any form that JSON has.
type seen = []any

func connect(ctx context.Context, change func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig("")
	if err != nil {
		return nil, err
	}
	change(config)
	return pgx.ConnectConfig(ctx, config)
}

func asItIs(*pgx.ConnConfig) {}

func check(name string, work func(context.Context, *pgx.Conn) (seen, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	connection, err := connect(ctx, asItIs)
	var saw seen
	if err == nil {
		saw, err = work(ctx, connection)
		_ = connection.Close(ctx)
	}
	words, unfit := json.Marshal(saw)
	if err = errors.Join(err, unfit); err != nil {
		failed++
		fmt.Println("FAILED pgx", name, err)
		return
	}
	fmt.Printf("ok pgx %s: %s\n", name, words)
}

// What a server said of an error or in a notice, without the line of its sources.
func fields(said *pgconn.PgError) any {
	return []any{said.SeverityUnlocalized, said.Code, said.Message, said.Detail, said.Hint, said.Position, said.Where,
		said.SchemaName, said.TableName, said.ColumnName, said.ConstraintName}
}

func failing(err error) any {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return fields(said)
	}
	return fmt.Sprint(err)
}

func number(ctx context.Context, c *pgx.Conn, query string, arguments ...any) (int, error) {
	var got int
	err := c.QueryRow(ctx, query, arguments...).Scan(&got)
	return got, err
}

func end(ctx context.Context, c *pgx.Conn) (seen, error) {
	tag, err := c.Exec(ctx, "DROP TABLE drv_go")
	return seen{tag.String()}, err
}

func main() {
	check("logins", logins)
	check("session", session)
	check("transactions", transactions)
	check("modes", modes)
	check("errors", wrong)
	check("notices", notices)
	check("batch", batch)
	check("copy", copying)
	check("large", large)
	check("pipeline", pipelined)
	check("cancel", cancelled)
	check("notifications", listening)
	check("large objects", objects)
	check("pool", pooled)
	check("end", end)
	os.Exit(failed)
}
