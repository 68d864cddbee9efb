"""Publishes a message with a traceparent set by hand.

    AMQP_URL=... python3 publish.py QUEUE BODY MESSAGE-ID TRACEPARENT
"""
import os
import sys

import pika

queue, body, message_id, traceparent = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.confirm_delivery()
channel.basic_publish(
    exchange="",
    routing_key=queue,
    body=body,
    properties=pika.BasicProperties(message_id=message_id, delivery_mode=2, headers={"traceparent": traceparent}),
    mandatory=True,
)
connection.close()
