// Command netq holds back packets in a netfilter queue, for kernels without netem. The
// packets themselves never leave the kernel: only their numbers are read, and answered
// after the delay. With --queue-bypass at the rule, traffic flows freely once netq is gone.
package main

import (
	"context"
	"flag"
	"log"
	"math/rand/v2"
	"os/signal"
	"syscall"
	"time"

	"github.com/florianl/go-nfqueue/v2"
)

func main() {
	number := flag.Uint("queue", 7, "number of the netfilter queue")
	delay := flag.Duration("delay", 0, "time that each packet is held")
	jitter := flag.Duration("jitter", 0, "random time on top, which reorders packets")
	flag.Parse()
	if err := serve(uint16(*number), *delay, *jitter); err != nil {
		log.Fatal(err)
	}
}

// serve answers the queue until SIGTERM or SIGINT.
func serve(number uint16, delay, jitter time.Duration) error {
	queue, err := nfqueue.Open(&nfqueue.Config{
		NfQueue:     number,
		MaxQueueLen: 65535,
		Copymode:    nfqueue.NfQnlCopyMeta,
		Flags:       nfqueue.NfQaCfgFlagGSO | nfqueue.NfQaCfgFlagFailOpen,
	})
	if err != nil {
		return err
	}
	defer queue.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hold := func(packet nfqueue.Attribute) int {
		id := *packet.PacketID
		time.AfterFunc(delay+time.Duration(rand.Int64N(int64(jitter)+1)), func() {
			if err := queue.SetVerdict(id, nfqueue.NfAccept); err != nil {
				log.Printf("packet %d: %v", id, err)
			}
		})
		return 0
	}
	// A read that fails (a full socket buffer) costs packets, not the queue.
	keepOn := func(err error) int {
		log.Print(err)
		return 0
	}
	if err := queue.RegisterWithErrorFunc(ctx, hold, keepOn); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
