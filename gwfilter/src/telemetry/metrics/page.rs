//! From the list of metrics to prometheus-client, which writes the text: names, escaping and units as the forms have them. Pure.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::figures::Figures;
use super::samples::{Sample, Value};
use super::table::{self, Base, Kind, METRICS, Metric};

/// The samples of all metrics.
#[derive(Debug)]
struct Page(Vec<(&'static Metric, Vec<Sample>)>);

/// All that is to be written.
pub(super) fn registry(figures: &Figures) -> Registry {
    let all = METRICS.iter().map(|metric| (metric, metric.samples(figures)));
    // Of what is not known, not even the name.
    let known = all.filter(|(_, samples)| !samples.is_empty()).collect();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(known)));
    registry
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (metric, samples) in &self.0 {
            let unit = metric.unit.map(|unit| match unit {
                Base::Seconds => Unit::Seconds,
                Base::Bytes => Unit::Bytes,
            });
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
                Kind::Info => MetricType::Info,
            };
            let stem = table::stem(metric);
            let mut family = encoder.encode_descriptor(stem, metric.help, unit.as_ref(), kind)?;
            for sample in samples {
                match (&sample.value, metric.kind) {
                    // Its labels are what it has to say.
                    (_, Kind::Info) => family.encode_info(&sample.labels)?,
                    (value, kind) if sample.labels.is_empty() => write(&mut family, kind, value)?,
                    (value, kind) => write(&mut family.encode_family(&sample.labels)?, kind, value)?,
                }
            }
        }
        Ok(())
    }
}

fn write(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> Result<(), std::fmt::Error> {
    match (value, kind) {
        (Value::Whole(n), Kind::Counter) => encoder.encode_counter::<NoLabelSet, u64, u64>(n, None),
        (Value::Real(x), Kind::Counter) => encoder.encode_counter::<NoLabelSet, f64, f64>(x, None),
        (Value::Whole(n), _) => encoder.encode_gauge(n),
        (Value::Real(x), _) => encoder.encode_gauge(x),
        (Value::Spread(spread), _) => {
            encoder.encode_histogram::<NoLabelSet>(spread.sum(), spread.count(), &spread.buckets(), None)
        }
    }
}
