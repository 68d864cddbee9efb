// Consumers that Warren is measured against, by name: programs as people write them,
// which decode a message and count it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	amqp "github.com/rabbitmq/amqp091-go"
	rabbitmq "github.com/wagslane/go-rabbitmq"

	"github.com/warrenmq/warren/bench/count"
)

const (
	prefetch = 100
	workers  = 8 // where there can be several
	multiple = 50
)

func main() {
	url, queue := os.Getenv("BENCH_URL"), os.Getenv("BENCH_QUEUE")
	consume := map[string]func(url, queue string) error{
		"loop":        func(url, queue string) error { return loop(url, queue, 1) },
		"multiple":    func(url, queue string) error { return loop(url, queue, multiple) },
		"automatic":   func(url, queue string) error { return loop(url, queue, 0) },
		"go-rabbitmq": goRabbitMQ,
		"watermill":   watermillAMQP,
	}[strings.Join(os.Args[1:], " ")]
	go count.Print()
	if err := consume(url, queue); err != nil {
		fmt.Fprintln(os.Stderr, os.Args, err)
		os.Exit(1)
	}
}

func work(body []byte) error {
	var m count.Message
	if err := json.Unmarshal(body, &m); err != nil {
		return err
	}
	count.Done(m)
	return nil
}

// loop is what people write by hand: it acknowledges every each-th message with all
// before it, or, with 0, leaves that to the broker.
func loop(url, queue string, each int) error {
	conn, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return err
	}
	deliveries, err := ch.Consume(queue, "", each == 0, false, false, false, nil)
	if err != nil {
		return err
	}
	n := 0
	for d := range deliveries {
		if err := work(d.Body); err != nil {
			return err
		}
		if n++; each > 0 && n%each == 0 {
			if err := d.Ack(each > 1); err != nil {
				return err
			}
		}
	}
	return amqp.ErrClosed
}

func goRabbitMQ(url, queue string) error {
	conn, err := rabbitmq.NewConn(url)
	if err != nil {
		return err
	}
	consumer, err := rabbitmq.NewConsumer(conn, queue,
		rabbitmq.WithConsumerOptionsConcurrency(workers),
		rabbitmq.WithConsumerOptionsQOSPrefetch(prefetch),
		rabbitmq.WithConsumerOptionsQueueNoDeclare,
	)
	if err != nil {
		return err
	}
	return consumer.Run(func(d rabbitmq.Delivery) rabbitmq.Action {
		if work(d.Body) != nil {
			return rabbitmq.NackDiscard
		}
		return rabbitmq.Ack
	})
}

func watermillAMQP(url, queue string) error {
	cfg := wamqp.NewDurableQueueConfig(url)
	cfg.Consume.Qos.PrefetchCount = prefetch
	cfg.TopologyBuilder = exists{}
	subscriber, err := wamqp.NewSubscriber(cfg, watermill.NopLogger{})
	if err != nil {
		return err
	}
	messages, err := subscriber.Subscribe(context.Background(), queue)
	if err != nil {
		return err
	}
	for m := range messages {
		if err := work(m.Payload); err != nil {
			return err
		}
		m.Ack()
	}
	return amqp.ErrClosed
}

// exists has watermill take the queue as it is.
type exists struct{}

func (exists) BuildTopology(*amqp.Channel, wamqp.BuildTopologyParams, wamqp.Config, watermill.LoggerAdapter) error {
	return nil
}

func (exists) ExchangeDeclare(*amqp.Channel, string, wamqp.Config) error { return nil }
