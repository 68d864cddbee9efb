// Publishes a message as a program does that OpenTelemetry's own instrumentation of
// amqplib traces, and prints the trace's id.
//
//   AMQP_URL=... OTLP=http://127.0.0.1:4318 node publish.js QUEUE BODY MESSAGE-ID
'use strict';
const { NodeTracerProvider, BatchSpanProcessor } = require('@opentelemetry/sdk-trace-node');
const { resourceFromAttributes } = require('@opentelemetry/resources');
const { OTLPTraceExporter } = require('@opentelemetry/exporter-trace-otlp-http');
const { registerInstrumentations } = require('@opentelemetry/instrumentation');
const { AmqplibInstrumentation } = require('@opentelemetry/instrumentation-amqplib');
const { trace } = require('@opentelemetry/api');

const provider = new NodeTracerProvider({
  resource: resourceFromAttributes({ 'service.name': 'node-publisher' }),
  spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter({ url: process.env.OTLP + '/v1/traces' }))],
});
provider.register();
registerInstrumentations({ instrumentations: [new AmqplibInstrumentation()] });

async function main([queue, body, messageId]) {
  const amqp = require('amqplib'); // after its instrumentation
  const connection = await amqp.connect(process.env.AMQP_URL);
  const channel = await connection.createConfirmChannel();
  channel.on('return', () => { throw new Error(`there is no queue ${queue}`); });
  await trace.getTracer('shop').startActiveSpan('place order', async (span) => {
    console.log(span.spanContext().traceId);
    channel.sendToQueue(queue, Buffer.from(body), { messageId, persistent: true, mandatory: true });
    await channel.waitForConfirms();
    span.end();
  });
  await connection.close();
  await provider.shutdown();
}

main(process.argv.slice(2)).catch((err) => {
  console.error(err);
  process.exit(1);
});
