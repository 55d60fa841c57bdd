// Command drivers tries pgx through a connection that the environment names.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

var failed int

func check(name string, work func(context.Context, *pgx.Conn) error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	connection, err := pgx.Connect(ctx, "")
	if err == nil {
		err = work(ctx, connection)
		_ = connection.Close(ctx)
	}
	if err != nil {
		failed++
		fmt.Println("FAILED pgx", name, err)
		return
	}
	fmt.Println("ok pgx", name)
}

func wanted(ok bool, what ...any) error {
	if ok {
		return nil
	}
	return errors.New(fmt.Sprint(what...))
}

func modes(ctx context.Context, c *pgx.Conn) error {
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		for n := range 10 {
			var got int
			if err := c.QueryRow(ctx, "SELECT $1::int + 1", mode, n).Scan(&got); err != nil || got != n+1 {
				return fmt.Errorf("%v: %d, %w", mode, got, err)
			}
		}
	}
	return nil
}

func batch(ctx context.Context, c *pgx.Conn) error {
	b := &pgx.Batch{}
	for n := range 300 {
		b.Queue("SELECT $1::int", n)
	}
	results := c.SendBatch(ctx, b)
	for n := range 300 {
		var got int
		if err := results.QueryRow().Scan(&got); err != nil || got != n {
			return fmt.Errorf("%d: %d, %w", n, got, err)
		}
	}
	return results.Close()
}

func copying(ctx context.Context, c *pgx.Conn) error {
	if _, err := c.Exec(ctx, "CREATE TABLE IF NOT EXISTS drv_go (n int); TRUNCATE drv_go"); err != nil {
		return err
	}
	rows, err := c.CopyFrom(ctx, pgx.Identifier{"drv_go"}, []string{"n"}, pgx.CopyFromSlice(100000, func(i int) ([]any, error) {
		return []any{i}, nil
	}))
	if err != nil {
		return err
	}
	var out strings.Builder
	if _, err = c.PgConn().CopyTo(ctx, &out, "COPY drv_go TO STDOUT"); err != nil {
		return err
	}
	return wanted(rows == 100000 && strings.Count(out.String(), "\n") == 100000, rows)
}

func pipelined(ctx context.Context, c *pgx.Conn) error {
	p := c.PgConn().StartPipeline(ctx)
	p.SendPrepare("p1", "SELECT $1::int", nil)
	if err := p.Sync(); err != nil {
		return err
	}
	for range 5 {
		p.SendQueryPrepared("p1", [][]byte{[]byte("7")}, nil, nil)
		if err := p.Sync(); err != nil {
			return err
		}
	}
	seen := 0
	for {
		result, err := p.GetResults()
		if err != nil || result == nil {
			return errors.Join(err, p.Close(), wanted(seen == 5, seen))
		}
		if reader, ok := result.(*pgconn.ResultReader); ok {
			if read := reader.Read(); read.Err != nil || string(read.Rows[0][0]) != "7" {
				return errors.New("another row")
			}
			seen++
		}
	}
}

func cancelled(ctx context.Context, c *pgx.Conn) error {
	go func() {
		time.Sleep(500 * time.Millisecond)
		_ = c.PgConn().CancelRequest(ctx)
	}()
	_, err := c.Exec(ctx, "SELECT pg_sleep(20)")
	var said *pgconn.PgError
	if !errors.As(err, &said) || said.Code != "57014" {
		return fmt.Errorf("not cancelled: %w", err)
	}
	return c.Ping(ctx)
}

func failing(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, "SELECT * FROM no_such_table")
	var said *pgconn.PgError
	if !errors.As(err, &said) || said.Code != "42P01" {
		return fmt.Errorf("another error: %w", err)
	}
	return c.Ping(ctx)
}

func listening(ctx context.Context, c *pgx.Conn) error {
	if _, err := c.Exec(ctx, "LISTEN drv_go; NOTIFY drv_go, 'hello'"); err != nil {
		return err
	}
	heard, err := c.WaitForNotification(ctx)
	if err != nil {
		return err
	}
	return wanted(heard.Payload == "hello" && heard.PID == c.PgConn().PID(), heard)
}

func objects(ctx context.Context, c *pgx.Conn) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		large := tx.LargeObjects()
		id, err := large.Create(ctx, 0)
		if err != nil {
			return err
		}
		object, err := large.Open(ctx, id, pgx.LargeObjectModeWrite|pgx.LargeObjectModeRead)
		if err != nil {
			return err
		}
		if _, err = object.Write(make([]byte, 1<<20)); err != nil {
			return err
		}
		return large.Unlink(ctx, id)
	})
}

func pooled(ctx context.Context, _ *pgx.Conn) error {
	pool, err := pgxpool.New(ctx, "pool_max_conns=10")
	if err != nil {
		return err
	}
	defer pool.Close()
	done := make(chan error)
	for n := range 100 {
		go func() {
			var got int
			err := pool.QueryRow(ctx, "SELECT $1::int", n).Scan(&got)
			done <- errors.Join(err, wanted(got == n, got))
		}()
	}
	for range 100 {
		err = errors.Join(err, <-done)
	}
	return err
}

func end(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, "DROP TABLE IF EXISTS drv_go")
	return err
}

func main() {
	check("modes", modes)
	check("batch", batch)
	check("copy", copying)
	check("pipeline", pipelined)
	check("cancel", cancelled)
	check("errors", failing)
	check("notifications", listening)
	check("large objects", objects)
	check("pool", pooled)
	check("end", end)
	os.Exit(failed)
}
