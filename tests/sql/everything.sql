-- What a copy of a MariaDB server may miss: engines, character sets, names, stored code, accounts.
USE app;
CREATE USER 'rebuilder'@'%' IDENTIFIED BY 're''b\\uilder';
GRANT ALL PRIVILEGES ON *.* TO 'rebuilder'@'%' WITH GRANT OPTION;
CREATE DATABASE `odd``name` CHARACTER SET utf8mb3;
CREATE DATABASE latin CHARACTER SET latin1 COLLATE latin1_german2_ci;
CREATE TABLE app.counted (id BIGINT AUTO_INCREMENT PRIMARY KEY, n INT, doubled INT,
  tripled INT AS (n * 3) STORED, quick INT AS (n * 4) VIRTUAL, KEY (n)) ENGINE=InnoDB;
CREATE TABLE app.unsafe_ones (n INT) ENGINE=MyISAM;
CREATE TABLE app.crash_safe (a INT PRIMARY KEY, b VARCHAR(100)) ENGINE=Aria;
INSERT INTO app.crash_safe VALUES (1, 'a''b\\c\n\r\0\Z"`'), (2, NULL), (0, '');
CREATE TABLE app.kept (a INT, b TEXT) WITH SYSTEM VERSIONING;
INSERT INTO app.kept VALUES (1, 'before');
UPDATE app.kept SET b = 'after';
CREATE TABLE app.parent (id INT PRIMARY KEY);
CREATE TABLE app.child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES app.parent (id) ON DELETE CASCADE);
INSERT INTO app.parent VALUES (0), (1);
INSERT INTO app.child VALUES (1, 1), (2, 0);
CREATE TABLE app.kinds (id INT PRIMARY KEY, b BIT(12), d DECIMAL(30, 10), f DOUBLE, e ENUM('x', 'y ü'), s SET('p', 'q'),
  t TIMESTAMP(6) NULL, dt DATETIME(3), y YEAR, j JSON, g GEOMETRY, bin VARBINARY(300), bl LONGBLOB, u UUID, i INET6);
INSERT INTO app.kinds VALUES (1, b'101', 12345678901234567890.0123456789, 1e-300, 'y ü', 'p,q', '2024-02-29 12:34:56.789012',
  '0000-00-00', 1999, '{"a": [1, "ü"]}', POINT(1, 2), UNHEX('00FF27220A0D5C1A'), REPEAT(UNHEX('00'), 1000),
  UUID(), '::1'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE app.parts (a INT PRIMARY KEY, b INT) PARTITION BY RANGE (a)
  (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE);
INSERT INTO app.parts SELECT seq, seq * 2 FROM seq_1_to_100;
CREATE TABLE latin.grüße (`wört er` VARCHAR(50) PRIMARY KEY, b TEXT CHARACTER SET utf16, c VARCHAR(20) CHARACTER SET cp1251);
INSERT INTO latin.grüße VALUES ('Straße', '𝔘nicode 😀', 'привет'), ('', 'x', NULL);
CREATE TABLE `odd``name`.`ta``ble 'x'` (`co``l "y"` INT PRIMARY KEY INVISIBLE DEFAULT 0, b INT CHECK (b > 0));
INSERT INTO `odd``name`.`ta``ble 'x'` (`co``l "y"`, b) VALUES (5, 6);
CREATE SEQUENCE app.numbers START WITH 100 INCREMENT BY 3 NOCACHE;
CREATE VIEW app.beyond AS SELECT c.id, k.b FROM app.counted c JOIN app.kept k ON k.a = c.n;
CREATE VIEW latin.`far view` AS SELECT * FROM app.beyond;
CREATE DEFINER='rebuilder'@'%' TRIGGER app.doubles BEFORE INSERT ON app.counted FOR EACH ROW SET NEW.doubled = 2 * NEW.n;
CREATE TRIGGER app.second BEFORE INSERT ON app.counted FOR EACH ROW FOLLOWS doubles SET NEW.doubled = NEW.doubled + 1;
CREATE FUNCTION app.says_hello(a VARCHAR(20)) RETURNS VARCHAR(40) DETERMINISTIC RETURN CONCAT('hello ;ü ', a);
CREATE PROCEDURE `odd``name`.two_steps(OUT n INT) SELECT COUNT(*) INTO n FROM app.parts;
CREATE EVENT app.each_hour ON SCHEDULE EVERY 1 HOUR DO DELETE FROM app.unsafe_ones WHERE n < 0;
CREATE ROLE readers;
GRANT SELECT ON latin.* TO readers;
CREATE USER 'visitor'@'10.%' IDENTIFIED BY 'secret' REQUIRE SSL WITH MAX_USER_CONNECTIONS 5;
GRANT readers TO 'visitor'@'10.%';
SET DEFAULT ROLE readers FOR 'visitor'@'10.%';
GRANT SELECT (n), UPDATE (n) ON app.counted TO 'visitor'@'10.%';
GRANT EXECUTE ON FUNCTION app.says_hello TO 'visitor'@'10.%';
