# gatewayd in a container: docker build -t gatewayd . ; compose.yaml runs it beside Mosquitto, Prometheus and Grafana.
# On a gateway of your own the Debian package is the shorter way, and the hardened unit the tighter one.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
ARG EXTRAS=onnx,llm
RUN python -m venv /opt/gatewayd
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY gatewayd gatewayd
COPY handlers handlers
# Wheels alone: nothing is compiled, so there is no compiler here either.
RUN /opt/gatewayd/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary=:all: setuptools wheel \
 && /opt/gatewayd/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
 && wheel=$(echo /wheels/gatewayd-*.whl) \
 && /opt/gatewayd/bin/pip install --no-cache-dir --only-binary=:all: "$wheel${EXTRAS:+[$EXTRAS]}"

FROM python:${PYTHON}-slim
# libgomp: ONNX Runtime and llama.cpp compute with it.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/gatewayd --no-create-home --shell /usr/sbin/nologin gatewayd \
 && install -d -m 0700 -o gatewayd -g gatewayd /var/lib/gatewayd
COPY --from=build /opt/gatewayd /opt/gatewayd
COPY debian/gatewayd.toml /etc/gatewayd/gatewayd.toml
ENV PATH=/opt/gatewayd/bin:$PATH PYTHONDONTWRITEBYTECODE=1 STATE_DIRECTORY=/var/lib/gatewayd
USER gatewayd
# The spool: without a volume it ends with the container.
VOLUME /var/lib/gatewayd
EXPOSE 8686
# It drains, for gateway.drain_s at most; give it longer: docker run --stop-timeout 45.
STOPSIGNAL SIGTERM
# Alive, as systemd's watchdog asks: an absent broker or cloud is no reason to restart.
HEALTHCHECK --interval=30s --timeout=12s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8686/healthz', timeout=10)"]
ENTRYPOINT ["gatewayd"]
CMD ["run", "--config", "/etc/gatewayd/gatewayd.toml"]
